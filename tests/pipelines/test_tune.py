"""The search of finetuning's parameters."""

from __future__ import annotations

import signal
from typing import Any

import optuna
import pandas as pd
import pytest

from selfie_pipeline.config import UserError
from selfie_pipeline.training.state import TrainingState
from selfie_pipeline.training.tasks import FinetuningTask

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:Accessing the 'model_fields' attribute on the instance"  # Kedro's own doing
    ),
]
SOME = "experiment.labeled_fracs=[0.05]"


def trials(project: Any) -> pd.DataFrame:
    table: pd.DataFrame = project.load("tuning_trials")
    return table.drop(columns="study")


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


def test_more_trials_go_on_where_fewer_ended(finished: Any, monkeypatch: Any) -> None:
    finished.run("tune", params=f"{SOME},tune.trials=2")
    two = trials(finished)
    finished.run("tune", params=SOME)

    three = trials(finished)
    kept = three[three["trial"] <= 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, two)
    assert len(three) == 6


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
