"""The grid of cells: run, gone on with, with a cell that fails, and with what the tuning found."""

from __future__ import annotations

import itertools
import logging
import signal
from typing import Any

import pytest

from selfie_pipeline.config import UserError
from selfie_pipeline.training.tasks import FinetuningTask

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:Accessing the 'model_fields' attribute on the instance"  # Kedro's own doing
    ),
]
GRID = set(itertools.product(["supervised", "selfie"], [0.05, 0.1], [0, 1]))


def status(project: Any) -> dict[tuple[str, float, int], str]:
    cells = project.load("experiment_cells").to_dict("records")
    return {(row["arm"], row["labeled_frac"], row["seed"]): row["status"] for row in cells}


def cells(project: Any, params: str = "") -> list[tuple[str, float, int]]:
    """Places of all results there are."""
    found = project.load("results", params)
    return sorted((cell["arm"], cell["labeled_frac"], cell["seed"]) for cell in found)


@pytest.fixture
def diverging(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the finetunings with some number of labels and of some arm diverge."""
    original = FinetuningTask.score
    monkeys = pytest.MonkeyPatch()

    def score(task: Any, batch: Any) -> Any:
        loss, accuracy = original(task, batch)
        bad = (task.labels >= 0).sum() == 126 and bool(task.handed_over)
        return (loss * float("nan") if bad else loss), accuracy

    monkeys.setattr(FinetuningTask, "score", score)
    yield monkeys
    monkeys.undo()


def test_a_whole_experiment(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Two fractions, two seeds, two arms, of which the whole run has made two cells before."""
    done = finished.kedro_run("--pipeline=experiment")

    assert done.exit_code == 0, done.output
    kept = {("supervised", 0.05, 0), ("selfie", 0.05, 0)}
    assert status(finished) == {place: "kept" if place in kept else "done" for place in GRID}
    assert cells(finished) == sorted(GRID)
    table = finished.load("results_table")
    assert list(table["seeds"]) == [2, 2, 2, 2]
    assert list(table["labeled_percent"]) == [5, 5, 10, 10]
    assert "n = 2" in done.output
    for arm, fraction, seed in GRID:
        place = f"labeled_frac={fraction},seed={seed}"
        assert finished.load(f"{arm}_metrics", place)["seed"] == seed
        assert len(finished.load(f"{arm}_predictions", place)) == 540


def test_only_what_changed_is_run_again(finished: Any) -> None:
    one = "experiment.labeled_fracs=[0.05],experiment.seeds=[0]"

    finished.run("experiment", params=one)
    assert set(status(finished).values()) == {"kept"}
    finished.run("experiment", params=f"{one},finetune.weight_decay=0.01")
    assert set(status(finished).values()) == {"done"}
    finished.run("experiment", params=one)  # not the newest result, but still there
    assert set(status(finished).values()) == {"kept"}

    assert cells(finished) == sorted([("selfie", 0.05, 0), ("supervised", 0.05, 0)] * 2)
    metrics = finished.load("selfie_metrics")["provenance"]["configuration"]
    assert metrics["finetune"]["weight_decay"] == 0.01
    # The report is that of the grid asked for, although its cells are the older ones.
    table = finished.load("results_table").set_index("arm")
    old = min(
        (cell for cell in finished.load("results") if cell["arm"] == "selfie"),
        key=lambda cell: cell["version"],
    )
    assert table.loc["selfie", "mean"] == pytest.approx(100 * old["accuracy"])


def test_a_cell_that_fails_is_reported_and_tried_again(finished: Any, diverging: Any) -> None:
    done = finished.kedro_run("--pipeline=experiment")

    assert done.exit_code == 1
    assert "2 cells failed (selfie, 10 %, seed 0: the loss is nan" in done.stderr
    failed = {("selfie", 0.1, 0), ("selfie", 0.1, 1)}
    assert {place for place, what in status(finished).items() if what == "failed"} == failed
    assert cells(finished) == sorted(GRID - failed)
    assert list(finished.load("results_table")["seeds"]) == [2, 2, 2]

    diverging.undo()
    again = finished.kedro_run("--pipeline=experiment")

    assert again.exit_code == 0, again.output
    assert status(finished) == {place: "done" if place in failed else "kept" for place in GRID}
    assert list(finished.load("results_table")["seeds"]) == [2, 2, 2, 2]


def test_an_interrupted_experiment_keeps_what_is_done(
    finished: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "selfie_pipeline")
    original = FinetuningTask.end_step

    def end_step(task: Any, batch: Any) -> None:
        original(task, batch)
        if bool(task.handed_over) and task.steps_done == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(FinetuningTask, "end_step", end_step)
        with pytest.raises(UserError, match="stopped by SIGTERM after step 2 of 4"):
            finished.run("cells")
    assert len(cells(finished)) == 3  # two of the whole run, one before the first of this arm

    finished.run("cells")

    assert "finetune: goes on after step 2 of 4" in caplog.messages
    assert cells(finished) == sorted(GRID)
    assert sorted(status(finished).values()) == ["done"] * 5 + ["kept"] * 3


def test_the_experiment_takes_what_the_tuning_found(
    finished: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "selfie_pipeline")
    some = "experiment.labeled_fracs=[0.05],experiment.seeds=[0]"
    finished.run("tune", params=some)
    best = {entry["arm"]: entry["settings"] for entry in finished.load("best_settings")}

    finished.run("experiment", params=some)

    assert set(status(finished).values()) == {"done"}  # the whole run's were not tuned
    for arm in ("selfie", "supervised"):
        made = finished.load(f"{arm}_metrics")["provenance"]
        rate = best[arm]["peak_learning_rate"]
        assert made["tuned"] == {"finetune.peak_learning_rate": rate}
        assert made["configuration"]["finetune"]["peak_learning_rate"] == rate
    finished.run("experiment", params=f"{some},finetune.weight_decay=0.01")
    assert "selfie, 5 %: not tuned" in caplog.messages  # it was tuned for another


def test_one_arm_alone_makes_no_report(finished: Any, caplog: pytest.LogCaptureFixture) -> None:
    finished.run("experiment", params="experiment.arms=[supervised],experiment.seeds=[0]")

    assert len(finished.versions("report")) == 1  # the whole run's
    assert any("no report" in line for line in caplog.messages)


def test_the_gain_over_fewer_images(finished: Any) -> None:
    """The experiment once more, for an encoder that saw 100 images; the baseline is shared."""
    some = "experiment.labeled_fracs=[0.05]"

    finished.run("ratio", params=some)

    found = [
        (cell["arm"], cell["seed"], cell["provenance"]["pretraining_images"])
        for cell in finished.load("results")
    ]
    supervised = [("supervised", seed, None) for seed in (0, 1)]
    selfie = [("selfie", seed, images) for images in (100, 1257) for seed in (0, 1)]
    assert sorted(found, key=str) == sorted(supervised + selfie, key=str)
    assert len(finished.versions("encoder")) == 1
    before = finished.files()
    finished.run("ratio", params=some)  # nothing is trained again
    new = finished.files().keys() - before.keys()
    assert not [name for name in new if "safetensors" in name or "metrics.json" in name]


def test_the_ratio_needs_an_encoder_that_was_made_alike(finished: Any) -> None:
    result = finished.kedro_run("--pipeline=ratio", "--params=pretrain.weight_decay=0.01")

    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "pretrain.weight_decay = 0.0001, now 0.01" in line
