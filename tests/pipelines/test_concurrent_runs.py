"""Runs of one project at the same time: each result follows from its own run.

`SELFIE_ROUNDS` sets the number of rounds; twenty take half an hour on two cores.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROUNDS = int(os.environ.get("SELFIE_ROUNDS", "1"))
LONGEST_DELAY_S = 2.5
"""About as long as a run takes from its first to its last node."""

BASELINE = ("--pipeline=baseline",)
EXPERIMENT = ("--pipeline=experiment",)
TUNE = ("--pipeline=tune",)


def start(project: Path, options: tuple[str, ...], decay: float) -> subprocess.Popen[str]:
    """Start a run, which can be told from others by the weight decay of its finetuning."""
    params = f"finetune.weight_decay={decay},experiment.labeled_fracs=[0.05],experiment.seeds=[0]"
    params += ",tune.trials=1"
    return subprocess.Popen(
        [sys.executable, "-m", "kedro", "run", "--env=tiny", *options, "--params", params],
        cwd=project,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def load_results(project: Any) -> dict[tuple[str, float], dict[str, Any]]:
    """Return the results by arm and weight decay, after checking each against its own version."""
    results = {}
    for file in project.path.glob("data/08_reporting/tiny/*/labeled_5pct/seed_0/metrics.json/*/*"):
        result = json.loads(file.read_text("utf-8"))
        version, arm = file.parent.name, result["arm"]
        classifier = project.catalog()[f"{arm}_classifier"]
        saved = classifier._copy(_version=classifier._version._replace(load=version)).load()
        assert result["provenance"]["classifier"] == saved.digest(), file
        decay = result["provenance"]["configuration"]["finetune"]["weight_decay"]
        assert (arm, decay) not in results
        results[arm, decay] = result
    return results


@pytest.mark.parametrize(
    "runs",
    [(BASELINE, BASELINE), (EXPERIMENT, EXPERIMENT, BASELINE)],
    ids=["two runs", "two experiments beside a run"],
)
def test_each_result_is_of_its_own_run(finished: Any, runs: tuple[tuple[str, ...], ...]) -> None:
    delays = random.Random(0)
    expected = set(load_results(finished))
    for number in range(ROUNDS):
        decays = [(number + 1) / 1000 + index / 4 for index in range(len(runs))]
        processes = []
        for options, decay in zip(runs, decays, strict=True):
            processes.append(start(finished.path, options, decay))
            time.sleep(delays.uniform(0, LONGEST_DELAY_S))
        outputs = [finish(process) for process in processes]

        for options, decay, output in zip(runs, decays, outputs, strict=True):
            expected |= {("supervised", decay)}
            if options == EXPERIMENT:
                expected |= {("selfie", decay)}
            assert "versions: saves" in output
        assert set(load_results(finished)) == expected, outputs


def test_two_identical_runs_give_the_same_result_twice(finished: Any) -> None:
    metrics = "data/08_reporting/tiny/supervised/labeled_5pct/seed_0/metrics.json/*/*"
    before = set(finished.path.glob(metrics))
    processes = [start(finished.path, BASELINE, 0.25) for _ in range(2)]
    for process in processes:
        finish(process)

    one, other = (
        json.loads(file.read_text()) for file in set(finished.path.glob(metrics)) - before
    )
    assert one == other
    assert list(finished.path.rglob("*checkpoints*")) == []


def test_two_searches_at_once_find_the_same(finished: Any) -> None:
    """The trials of one run are not those that the other takes for interrupted ones."""
    processes = [start(finished.path, TUNE, 0.25) for _ in range(2)]
    for process in processes:
        finish(process)

    files = finished.path.rglob("best_settings.json/*/*")
    one, other = (json.loads(file.read_text()) for file in files)
    assert one == other
    assert [search["trials"] for search in one] == [1, 1]
