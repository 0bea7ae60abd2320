"""The project's commands with `compute.engine=ray`, each on a cluster of this machine alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings(
        "ignore:Accessing the 'model_fields' attribute on the instance"  # Kedro's own doing
    ),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray's own pipes and sockets
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # within Ray itself
]
RAY = "compute.engine=ray,compute.accelerator=cpu"
ONE_FRACTION = "experiment.labeled_fracs=[0.1]"
FOUR_CELLS = [(arm, 0.1, seed) for arm in ("selfie", "supervised") for seed in (0, 1)]


@pytest.fixture(autouse=True)
def _own_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")


def cells(project: Any) -> list[tuple[str, float, int]]:
    found = project.load("results")
    return sorted(
        (cell["arm"], cell["labeled_frac"], cell["seed"])
        for cell in found
        if cell["labeled_frac"] == 0.1
    )


def process(project: Any, stage: str, params: str) -> subprocess.Popen[str]:
    """`kedro run` as a process."""
    command = [sys.executable, "-m", "kedro", "run", "--env=tiny", f"--pipelines={stage}"]
    return subprocess.Popen(
        [*command, "--params", params],
        cwd=project.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def busy_workers(mark: str) -> list[int]:
    """Processes of Ray that do a part of a chain's work and have this mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_busy = b"_execute" in (folder / "cmdline").read_bytes()
            if is_busy and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue  # it has ended meanwhile, or is another's
    return found


def test_a_cell_whose_process_is_killed_is_run_again_and_counted_once(
    finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = uuid.uuid4().hex
    monkeypatch.setenv("SELFIE_TEST", mark)
    killed: list[int] = []

    def kill() -> None:
        while not (workers := busy_workers(mark)):
            time.sleep(0.05)
        time.sleep(1)
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
            killed.append(worker)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()

    finished.run("cells", params=f"{RAY},{ONE_FRACTION}")

    assert killed
    assert cells(finished) == FOUR_CELLS
    table = finished.load("experiment_cells")
    assert set(table["status"]) == {"done"}
    finished.run("cells", params=ONE_FRACTION)  # without Ray: they are all there
    assert set(finished.load("experiment_cells")["status"]) == {"kept"}
    assert cells(finished) == FOUR_CELLS


def test_a_driver_that_is_killed_loses_no_finished_cell(finished: Any) -> None:
    params = f"{RAY},{ONE_FRACTION}"
    driver = process(finished, "cells", params)
    metrics = "data/08_reporting/tiny/**/labeled_10pct/**/metrics.json"
    while not [path for path in finished.path.glob(metrics) if path.is_file()]:
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.05)
    driver.kill()
    driver.communicate()

    finished.run("cells", params=params)

    assert cells(finished) == FOUR_CELLS
    statuses = list(finished.load("experiment_cells")["status"])
    assert statuses.count("kept") >= 1
    assert set(statuses) <= {"kept", "done"}


def test_searches_side_by_side_find_what_they_find_one_after_another(finished: Any) -> None:
    one_arm = "experiment.arms=[supervised],tune.trials=3"
    finished.run("tune", params=f"{RAY},{one_arm}")
    side_by_side = finished.load("tuning_trials")
    (finished.path / "data/07_model_output/tiny/tuning/studies.db").unlink()

    finished.run("tune", params=one_arm)

    assert len(side_by_side) == 6
    pd.testing.assert_frame_equal(side_by_side, finished.load("tuning_trials"))


def test_the_workers_reach_the_terminal_as_one_display(finished: Any) -> None:
    done = process(finished, "pretrain", f"{RAY},compute.workers=2")
    _, told = done.communicate(timeout=300)

    assert done.returncode == 0, told
    assert told.count("pretrain: 6 steps done") == 1
    assert "pid=" not in told
    assert len(told.splitlines()) < 15
    made = finished.load("encoder").provenance
    assert made["device"].startswith("2 × ")
    assert made["device"].endswith("BatchNorm synchronised")
