"""The search of finetuning's parameters."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import FrozenTrial, TrialState

from selfie_pipeline.config import UserError
from selfie_pipeline.pipelines.tune.nodes import _Objective
from selfie_pipeline.training.search import Search
from selfie_pipeline.training.signals import TrainingInterrupted
from selfie_pipeline.training.state import TrainingState
from selfie_pipeline.training.tasks import FinetuningTask
from selfie_pipeline.training.trials import run_trial

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:Accessing the 'model_fields' attribute on the instance"  # Kedro's own doing
    ),
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable"),  # of MemoryGrids
]
SOME = "experiment.labeled_fracs=[0.05]"


def trials(project: Any) -> pd.DataFrame:
    table: pd.DataFrame = project.load("tuning_trials")
    return table.drop(columns="study")


@pytest.mark.slow
def test_a_recipe_outside_the_search_space_is_refused(finished: Any) -> None:
    """The first trial has the recipe's values."""
    error = finished.refuse("--pipeline=tune", "--params=finetune.peak_learning_rate=0.5")

    assert error == (
        "Error: finetune.peak_learning_rate = 0.5, which the first trial has, is outside "
        "tune.space, from 0.01 to 0.4; change one of them"
    )


@pytest.mark.slow
def test_what_is_found_is_the_best_of_the_trials(finished: Any) -> None:
    finished.run("tune", params=SOME)

    table = finished.load("tuning_trials")
    best = finished.load("best_settings")
    assert [(entry["arm"], entry["labeled_frac"]) for entry in best] == [
        ("supervised", 0.05),
        ("selfie", 0.05),
    ]
    for entry in best:
        own = table[table["arm"] == entry["arm"]]
        assert len(own) == entry["trials"] == 3
        assert own["peak_learning_rate"].iloc[0] == 0.1  # the recipe's own comes first
        assert own["peak_learning_rate"].between(0.01, 0.4).all()
        assert own["peak_learning_rate"].nunique() == 3
        complete = own[own["state"] == "complete"].set_index("peak_learning_rate")
        scores = complete["validation_accuracy"]
        assert entry["validation_accuracy"] == scores.max()
        assert scores[entry["settings"]["peak_learning_rate"]] == scores.max()
        assert (scores * 126 % 1).round(6).isin([0, 1]).all()  # of 126 held out
    assert not list(finished.path.rglob("checkpoints/*/*"))
    names = optuna.get_all_study_names(
        f"sqlite:///{finished.path}/data/07_model_output/tiny/tuning/studies.db"
    )
    assert {entry["study"] for entry in best} == set(names)


@pytest.mark.slow
def test_more_trials_go_on_where_fewer_ended(finished: Any, monkeypatch: Any) -> None:
    finished.run("tune", params=f"{SOME},tune.trials=2")
    two = trials(finished)
    finished.run("tune", params=SOME)

    three = trials(finished)
    kept = three[three["trial"] <= 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, two)
    assert len(three) == 6


@pytest.mark.slow
def test_a_tuning_of_other_fractions_keeps_what_was_found_before(finished: Any) -> None:
    finished.run("tune", params=f"{SOME},experiment.arms=[supervised],tune.trials=1")
    (first,) = finished.load("best_settings")
    finished.run("tune", params="experiment.arms=[supervised],tune.trials=1")

    both = finished.load("best_settings")
    assert [entry["labeled_frac"] for entry in both] == [0.05, 0.1]
    finished.run(
        "tune",
        params="experiment.arms=[supervised],experiment.labeled_fracs=[0.1],tune.trials=2",
    )

    tenth, twentieth = finished.load("best_settings")
    assert twentieth == first
    assert (tenth["labeled_frac"], tenth["trials"]) == (0.1, 2)


@pytest.mark.slow
def test_an_interrupted_search_ends_as_an_undisturbed_one(
    finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TrainingState.end_step
    seen = []

    def end_step(state: TrainingState) -> None:
        original(state)
        seen.append(state.step)
        if len(seen) == 7:  # in the middle of the second trial
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "end_step", end_step)
        with pytest.raises(UserError, match="stopped by SIGTERM"):
            finished.run("tune", params=SOME)
    finished.run("tune", params=SOME)
    interrupted = trials(finished)
    (finished.path / "data/07_model_output/tiny/tuning/studies.db").unlink()
    finished.run("tune", params=SOME)

    pd.testing.assert_frame_equal(interrupted, trials(finished))


@pytest.mark.slow
def test_a_rate_that_diverges_is_pruned_not_fatal(
    finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = FinetuningTask.forward

    def forward(task: Any, batch: Any) -> Any:
        loss, accuracy = original(task, batch)
        bad = task.recipe.peak_learning_rate != 0.1
        return (loss * float("nan") if bad else loss), accuracy

    monkeypatch.setattr(FinetuningTask, "forward", forward)

    finished.run("tune", params=f"{SOME},experiment.arms=[supervised]")

    assert list(trials(finished)["state"]) == ["complete", "pruned", "pruned"]
    (best,) = finished.load("best_settings")
    assert best["settings"] == {"peak_learning_rate": 0.1}


@pytest.mark.slow
def test_searches_whose_trials_all_diverge_do_not_end_the_others(
    finished: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = FinetuningTask.forward
    diverging = {"selfie"}

    def forward(task: Any, batch: Any) -> Any:
        loss, accuracy = original(task, batch)
        arm = "selfie" if task.pretrained else "supervised"
        return (loss * float("nan") if arm in diverging else loss), accuracy

    monkeypatch.setattr(FinetuningTask, "forward", forward)

    finished.run("tune", params=SOME)
    assert [entry["arm"] for entry in finished.load("best_settings")] == ["supervised"]
    assert list(trials(finished)["state"]) == ["complete"] * 3 + ["pruned"] * 3
    (line,) = (line for line in caplog.messages if "no values were found" in line)
    assert line.startswith("tune: selfie, 5 %: ")

    diverging.add("supervised")
    with pytest.raises(UserError, match=r"supervised, 5 %; selfie, 5 %\): .* learning rates in"):
        finished.run("tune", params=f"{SOME},tune.seed=1")


@pytest.mark.slow
def test_the_test_split_has_no_part_in_it(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other test labels the search is the same, trial for trial."""
    finished.run("tune", params=SOME)
    expected = trials(finished)
    path = finished.catalog()["usable_samples"]
    table = finished.load("usable_samples")
    test = table["split"] == "test"
    table.loc[test, "label"] = (table.loc[test, "label"] + 1) % 10
    path.release()
    finished.catalog()["usable_samples"].save(table)
    (finished.path / "data/07_model_output/tiny/tuning/studies.db").unlink()

    finished.run("tune", params=SOME)

    pd.testing.assert_frame_equal(trials(finished), expected)


@pytest.fixture
def run(
    make_config: Any, make_images: Any, digits: Any, tmp_path: Path
) -> Callable[..., FrozenTrial]:
    """Return a function that runs a trial on the digits, in a folder of its own."""
    config = make_config({"finetune.steps": 6, "finetune.checkpoint_every": 1})
    labels = digits[1]
    split = np.where(np.arange(len(labels)) % 9 == 0, "validation", "train")
    samples = pd.DataFrame({"sample": np.arange(len(labels)), "label": labels, "split": split})
    lineage = {"configuration": {"finetune": {"peak_learning_rate": 0.05}}}
    search = Search("supervised", 0.1, lineage, config.tune)

    def run(folder: str = "", before: list[FrozenTrial] | None = None) -> FrozenTrial:
        images, recipe, compute = make_images(config), config.finetune, config.compute
        folders = (tmp_path / folder, "auto", None)
        objective = _Objective(search, samples, images, config.model, recipe, compute, *folders)
        return run_trial(search, objective, before or [])

    return run


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, happens: Callable[[], None]) -> None:
    """Have something happen at the end of a step, before its checkpoint."""
    original = TrainingState.end_step

    def end_step(state: TrainingState) -> None:
        original(state)
        if state.step == step:
            happens()

    monkeypatch.setattr(TrainingState, "end_step", end_step)


@pytest.mark.parametrize("step", [2, 4, 6])
def test_a_resumed_trial_reports_the_scores_of_an_undisturbed_one(
    run: Callable[..., FrozenTrial], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Also if it was stopped after its last step."""
    whole = run("whole")
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(TrainingInterrupted):
            run("resumed")

    resumed = run("resumed")

    assert whole.intermediate_values.keys() == {1, 3, 4}
    assert resumed.intermediate_values == whole.intermediate_values
    assert resumed.value == whole.value


def test_a_trial_that_is_resumed_and_diverges_reports_its_scores_and_leaves_no_checkpoint(
    run: Callable[..., FrozenTrial], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 4, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(TrainingInterrupted):
            run()
    assert list(tmp_path.glob("checkpoints/*/*"))
    original = FinetuningTask.forward

    def forward(task: Any, batch: Any) -> Any:
        loss, accuracy = original(task, batch)
        return (loss * float("nan") if batch.step == 5 else loss), accuracy

    monkeypatch.setattr(FinetuningTask, "forward", forward)

    trial = run()

    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values.keys() == {1, 3, 4}
    assert not list(tmp_path.glob("checkpoints/*/*"))


def test_a_trial_whose_outputs_are_not_finite_is_pruned(
    run: Callable[..., FrozenTrial], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its loss is finite to the end: the last update made its weights so."""

    def spoil() -> None:
        for network in spoilt:
            network.head.fc.bias.data[0] = float("nan")

    spoilt: list[Any] = []
    original = FinetuningTask.__init__

    def remember(task: Any, network: Any, *args: Any, **kwargs: Any) -> None:
        spoilt.append(network)
        original(task, network, *args, **kwargs)

    monkeypatch.setattr(FinetuningTask, "__init__", remember)
    at_step(monkeypatch, 6, spoil)

    trial = run()

    assert trial.state == TrialState.PRUNED
    assert not list(tmp_path.glob("checkpoints/*/*"))


def test_a_pruned_trial_leaves_no_checkpoint(
    run: Callable[..., FrozenTrial], tmp_path: Path
) -> None:
    better = optuna.trial.create_trial(value=1.0, intermediate_values={3: 1.0})

    pruned = run(before=[better] * 3)

    assert pruned.state == TrialState.PRUNED
    assert pruned.intermediate_values.keys() == {1, 3}
    assert not list(tmp_path.glob("checkpoints/*/*"))
