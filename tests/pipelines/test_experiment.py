"""Tests of experiments: complete, interrupted, with failing cells, and with tuned values."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from selfie_pipeline.config import UserError
from selfie_pipeline.training.state import TrainingState
from selfie_pipeline.training.tasks import FinetuningTask

pytestmark = pytest.mark.slow
GRID = set(itertools.product(["supervised", "selfie"], [0.05, 0.1], [0, 1]))


def load_statuses(project: Any) -> dict[tuple[str, float, int], str]:
    cells = project.load("experiment_cells").to_dict("records")
    return {(row["arm"], row["labeled_frac"], row["seed"]): row["status"] for row in cells}


def load_cell_keys(project: Any, params: str = "") -> list[tuple[str, float, int]]:
    """Return the keys of all results."""
    found = project.load("results", params)
    return sorted((cell["arm"], cell["labeled_frac"], cell["seed"]) for cell in found)


@pytest.fixture
def diverging(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the finetunings of the selfie arm with 126 labels diverge."""
    original = FinetuningTask.forward
    monkeys = pytest.MonkeyPatch()

    def forward(task: Any, batch: Any) -> Any:
        loss, accuracy = original(task, batch)
        bad = (task.labels >= 0).sum() == 126 and bool(task.pretrained)
        return (loss * float("nan") if bad else loss), accuracy

    monkeys.setattr(FinetuningTask, "forward", forward)
    yield monkeys
    monkeys.undo()


def test_a_complete_experiment(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Two of the eight cells (fractions × seeds × arms) exist from the complete run."""
    done = finished.succeed("--pipeline=experiment")

    kept = {("supervised", 0.05, 0), ("selfie", 0.05, 0)}
    assert load_statuses(finished) == {key: "kept" if key in kept else "done" for key in GRID}
    assert load_cell_keys(finished) == sorted(GRID)
    table = finished.load("results_table")
    assert list(table["seeds"]) == [2, 2, 2, 2]
    assert list(table["labeled_percent"]) == [5, 5, 10, 10]
    assert "n = 2" in done.output
    params = "labeled_frac=0.1,seed=1"  # as for a run of this cell alone
    for arm in ("selfie", "supervised"):
        assert finished.load(f"{arm}_metrics", params)["seed"] == 1
        assert len(finished.load(f"{arm}_predictions", params)) == 540


def start(project: Any, params: str) -> subprocess.Popen[str]:
    """Start `kedro run --pipeline=cells`."""
    command = [sys.executable, "-m", "kedro", "run", "--env=tiny", "--pipelines=cells"]
    return subprocess.Popen(
        [*command, "--params", params], cwd=project.path, stderr=subprocess.PIPE, text=True
    )


def load_predictions(project: Any) -> list[pd.DataFrame]:
    """Return the predictions of the cells with 10 % of the labels and seed 1."""
    params = "labeled_frac=0.1,seed=1"
    return [project.load(f"{arm}_predictions", params) for arm in ("supervised", "selfie")]


def test_cells_side_by_side_have_the_numbers_of_cells_in_turn(finished: Any) -> None:
    params = "experiment.labeled_fracs=[0.1],experiment.seeds=[1]"
    finished.run("cells", params=params)
    in_turn = load_predictions(finished)
    for folder in list((finished.path / "data/08_reporting").rglob("labeled_10pct")):
        shutil.rmtree(folder)

    done = start(finished, f"{params},compute.cells_at_once=2")
    _, told = done.communicate(timeout=600)

    assert done.returncode == 0, told
    assert set(load_statuses(finished).values()) == {"done"}
    assert "running 2 jobs in parallel, with 1 thread each" in told
    assert "finetune, 126 labels, seed 1: 4 steps done" in told
    for before, after in zip(in_turn, load_predictions(finished), strict=True):
        pd.testing.assert_frame_equal(before, after)


def test_cells_side_by_side_resume(finished: Any) -> None:
    """The command is stopped when the trainings of two cells have begun."""
    few = "experiment.labeled_fracs=[0.1],experiment.seeds=[0]"
    params = f"{few},finetune.steps=40,compute.cells_at_once=2"
    first = start(finished, params)
    checkpoints = finished.path / "data/06_models"
    while len({path.parent for path in checkpoints.rglob("step-*.json")}) < 2:
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    _, told = first.communicate(timeout=120)
    assert first.returncode == 143
    assert "stopped by SIGTERM, with 0 of 2 done; run the same command (without" in told
    assert "--from-nodes" not in told
    assert "Traceback" not in told
    assert "leaked" not in told  # as Python warns of semaphores

    second = start(finished, params)
    _, told = second.communicate(timeout=600)

    assert told.count(": resumes after step") == 2
    assert set(load_statuses(finished).values()) == {"done"}


def test_only_changed_cells_are_run_again(finished: Any) -> None:
    one = "experiment.labeled_fracs=[0.05],experiment.seeds=[0]"
    # The first is what a run leaves that was killed after it had saved its result.
    leftovers = {}
    for arm, more in (("selfie", {}), ("supervised", {"encoder": "another"})):
        lineage = finished.load(f"{arm}_classifier").provenance
        record = {"step": 4, "sha256": "", "identity": {**lineage, **more}}
        leftovers[arm] = Path(f"{finished.load(f'{arm}_checkpoints')}-0")
        leftovers[arm].mkdir()
        (leftovers[arm] / "step-000000004.json").write_text(json.dumps(record))

    finished.run("cells", params=one)
    assert set(load_statuses(finished).values()) == {"kept"}
    assert not leftovers["selfie"].exists()
    assert leftovers["supervised"].exists()
    finished.run("cells", params=f"{one},finetune.weight_decay=0.01")
    assert set(load_statuses(finished).values()) == {"done"}
    finished.run("experiment", params=one)  # not the latest results, but they still exist
    assert set(load_statuses(finished).values()) == {"kept"}

    assert load_cell_keys(finished) == sorted([("selfie", 0.05, 0), ("supervised", 0.05, 0)] * 2)
    metrics = finished.load("selfie_metrics")["provenance"]["configuration"]
    assert metrics["finetune"]["weight_decay"] == 0.01
    # The report is that of the requested grid, even though its cells are older.
    table = finished.load("results_table").set_index("arm")
    old = min(
        (cell for cell in finished.load("results") if cell["arm"] == "selfie"),
        key=lambda cell: cell["version"],
    )
    assert table.loc["selfie", "mean"] == pytest.approx(100 * old["accuracy"])


def test_a_failing_cell_is_reported_and_retried(finished: Any, diverging: Any) -> None:
    done = finished.kedro_run("--pipeline=experiment")

    assert done.exit_code == 1
    assert "2 cells failed (selfie, 10 %, seed 0: the loss is nan" in done.stderr
    failed = {("selfie", 0.1, 0), ("selfie", 0.1, 1)}
    assert {key for key, state in load_statuses(finished).items() if state == "failed"} == failed
    assert load_cell_keys(finished) == sorted(GRID - failed)
    assert list(finished.load("results_table")["seeds"]) == [2, 2, 2]

    diverging.undo()
    finished.succeed("--pipelines=cells")

    assert load_statuses(finished) == {key: "done" if key in failed else "kept" for key in GRID}
    assert load_cell_keys(finished) == sorted(GRID)


def test_a_cell_with_other_parameters_than_planned_has_failed(
    finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cell reads conf/ again, which somebody may edit in the meantime."""
    original = TrainingState.end_step
    file = finished.path / "conf/tiny/parameters_edited.yml"

    def end_step(state: TrainingState) -> None:
        original(state)
        file.write_text("finetune: {weight_decay: 0.5}")

    monkeypatch.setattr(TrainingState, "end_step", end_step)
    done = finished.kedro_run("--pipeline=cells")

    assert done.exit_code == 1
    assert "the files in conf/ were changed while the experiment was running" in done.stderr
    statuses = list(load_statuses(finished).values())
    assert (statuses.count("kept"), statuses.count("done"), statuses.count("failed")) == (2, 1, 5)


def test_another_configuration_is_also_that_of_the_cells(finished: Any) -> None:
    shutil.copytree(finished.path / "conf", finished.path / "other")
    (finished.path / "other/tiny/parameters_other.yml").write_text("finetune: {weight_decay: 0.5}")

    finished.succeed("--pipeline=cells", "--conf-source=other")

    assert set(load_statuses(finished).values()) == {"done"}
    made = finished.load("supervised_metrics")["provenance"]["configuration"]["finetune"]
    assert made["weight_decay"] == 0.5


def test_a_result_that_is_gone_before_the_report_is_named(finished: Any) -> None:
    finished.succeed("--pipeline=experiment", "--params=experiment.labeled_fracs=[0.05]")
    folder = finished.path / "data/08_reporting/tiny/supervised/labeled_5pct/seed_0/metrics.json"
    shutil.rmtree(folder)

    error = finished.refuse(
        "--pipeline=experiment",
        "--from-nodes=report_experiment",
        "--params=experiment.labeled_fracs=[0.05]",
    )

    assert "the result of supervised, 5 %, seed 0 is damaged or no longer in the catalog" in error


def test_kept_cells_of_another_precision_are_noticed(
    finished: Any, caplog: pytest.LogCaptureFixture
) -> None:
    finished.run("cells", params="experiment.labeled_fracs=[0.05],experiment.seeds=[0]")
    assert not [line for line in caplog.messages if "another precision" in line]
    for file in finished.path.rglob("metrics.json/*/metrics.json"):
        file.write_text(file.read_text().replace('"precision": "', '"precision": "16-'))
    finished.run("baseline", params="labeled_frac=0.05,seed=0,finetune.weight_decay=0.5")

    finished.run("cells", params="experiment.labeled_fracs=[0.05],experiment.seeds=[0]")

    assert [
        line for line in caplog.messages if "were computed in another precision (2 in 16-" in line
    ]


def test_an_interrupted_experiment_keeps_finished_cells(
    finished: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "selfie_pipeline")
    original = TrainingState.end_step

    def end_step(state: TrainingState) -> None:
        original(state)
        pretrained = state.optimizer.param_groups[-1]["params"]
        if pretrained and state.step == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "end_step", end_step)
        with pytest.raises(UserError, match="stopped by SIGTERM after step 2 of 4"):
            finished.run("cells")
    # Two of the complete run, and one before the first cell of the selfie arm.
    assert len(load_cell_keys(finished)) == 3

    finished.run("cells")

    assert "finetune, 126 labels, seed 0: resumes after step 2 of 4" in caplog.messages
    assert load_cell_keys(finished) == sorted(GRID)
    assert sorted(load_statuses(finished).values()) == ["done"] * 5 + ["kept"] * 3


def test_the_experiment_uses_tuned_values(finished: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "selfie_pipeline")
    some = "experiment.labeled_fracs=[0.05],experiment.seeds=[0]"
    finished.run("tune", params=some)
    best = {entry["arm"]: entry["settings"] for entry in finished.load("best_settings")}

    finished.run("cells", params=some)

    # The cells of the complete run are not kept, because they were not tuned.
    assert set(load_statuses(finished).values()) == {"done"}
    for arm in ("selfie", "supervised"):
        made = finished.load(f"{arm}_metrics")["provenance"]
        rate = best[arm]["peak_learning_rate"]
        assert made["tuned"] == {"finetune.peak_learning_rate": rate}
        assert made["configuration"]["finetune"]["peak_learning_rate"] == rate
    finished.run("cells", params=f"{some},finetune.weight_decay=0.01")
    told = "finetuning parameters of selfie with 5 % of the labels: not those of the tuning"
    assert [record.levelname for record in caplog.records if told in record.message] == ["WARNING"]


def test_values_for_some_fractions_only_are_refused(finished: Any) -> None:
    """The cells could not be compared, and their report would leave some out."""
    finished.run("tune", params="experiment.labeled_fracs=[0.05],experiment.seeds=[0]")

    with pytest.raises(UserError, match="values for some of the arms and fractions only"):
        finished.run("cells", params="experiment.labeled_fracs=[0.05,0.1],experiment.seeds=[0]")


def test_the_ratio_finetunes_all_encoders_with_the_same_tuned_values(finished: Any) -> None:
    some = "experiment.labeled_fracs=[0.05],experiment.seeds=[0]"
    finished.run("tune", params=some)

    finished.run("ratio", params=some)

    tuned = {
        cell["provenance"]["pretraining_images"]: cell["provenance"]["tuned"]
        for cell in finished.load("results")
        if cell["arm"] == "selfie" and cell["provenance"]["tuned"]
    }
    assert tuned.keys() == {100, 1257}
    assert tuned[100] == tuned[1257]


def test_more_images_than_there_are_is_refused_before_any_pretraining(finished: Any) -> None:
    error = finished.refuse("--pipeline=ratio", "--params=ratio.images=[100,2000]")

    assert "ratio.images has 2000, but there are 1257 images to pretrain on" in error
    assert len(finished.versions("encoder")) == 1


def test_the_baseline_alone_needs_no_encoder_and_has_no_report(
    finished: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for encoder in (finished.path / "data/06_models").rglob("encoder.safetensors"):
        shutil.rmtree(encoder, ignore_errors=True)  # with the file in it
    alone = "experiment.arms=[supervised],experiment.seeds=[0]"
    finished.run("experiment", params=alone)

    assert len(finished.versions("report")) == 1  # that of the complete run
    assert any("no report" in line for line in caplog.messages)
    assert not any("Replacing" in line for line in caplog.messages)
    table = next(line for line in caplog.messages if "test accuracy" in line)
    assert [row.split()[0] for row in table.splitlines()[-2:]] == ["5", "10"]  # % of the labels
    finished.run("pretrain", params=alone)
    assert finished.versions("encoder")


def test_the_ratio_runs_cells_with_fewer_images(finished: Any) -> None:
    """The cells run again with an encoder of 100 images; the supervised arm is shared."""
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
    finished.run("ratio", params=some)  # trains nothing
    new = finished.files().keys() - before.keys()
    assert not [name for name in new if "safetensors" in name or "metrics.json" in name]


def test_the_ratio_needs_an_encoder_with_the_same_parameters(finished: Any) -> None:
    error = finished.refuse("--pipeline=ratio", "--params=pretrain.weight_decay=0.01")

    assert "pretrain.weight_decay = 0.0001, now 0.01" in error
    error = finished.refuse("--pipeline=ratio", "--params=pretrain.colour_jitter=0.5")
    assert "pretrain.colour_jitter = the default, now 0.5" in error


def test_the_ratio_goes_on_and_leaves_no_checkpoints_if_a_cell_fails(finished: Any) -> None:
    some = "experiment.labeled_fracs=[0.05],experiment.seeds=[0],finetune.peak_learning_rate=1e30"

    error = finished.refuse("--pipeline=ratio", f"--params={some},ratio.images=[50,100]")
    assert error.startswith("Error: 6 cells failed (50 images, supervised, 5 %, seed 0: ")
    assert "; 100 images, selfie, 5 %, seed 0: " in error
    assert "; selfie, 5 %, seed 0: " in error  # of all images
    finished.succeed("--pipeline=ratio", f"--params={some},finetune.peak_learning_rate=0.1")

    assert list(finished.path.rglob("images_*/checkpoints*")) == []
