"""Measures how much sooner an experiment ends if its cells run side by side.

    python benchmarks/cells.py --json docs/results/benchmarks/cells.json

The cells are finetunings of the digits from scratch, with the default numbers of steps. In turn,
each has all threads (`compute.cells_at_once=1`). Side by side, as many as there are cores have one
thread each (`auto`). Both are whole `kedro run --pipeline=cells`, alternately.

Times for more cores are calculated: the start of an experiment, and the time of a cell for each
round of as many cells as there are cores. Both follow from side-by-side experiments with all cells
and with one round of them.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from common import arguments, copy_project, median_interval, recipe, report, seconds

from selfie_pipeline.training.device import find_device

_CORES = (4, 8, 16)


def kedro_run(project: Path, *options: str) -> None:
    """Run a command in the project; if it fails, exit with its messages."""
    command = [sys.executable, "-m", "kedro", "run", *options]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"`kedro run {' '.join(options)}` failed:\n{done.stderr}")


def run_cells(project: Path, cells: int, at_once: int | str, number: int) -> float:
    """Run an experiment without earlier results, and return its time in seconds.

    Args:
        project: Copy of the project, with an encoder.
        cells: Number of cells.
        at_once: Value of `compute.cells_at_once`.
        number: A number that no other experiment here has.
    """
    params = (
        f"compute.cells_at_once={at_once},experiment.seeds={list(range(cells))},"
        "experiment.arms=[supervised],experiment.labeled_fracs=[0.1],tracking.mlflow=never,"
        f"finetune.weight_decay={1e-4 + 1e-9 * number}"
    )
    return seconds(lambda: kedro_run(project, "--pipeline=cells", f"--params={params}"))


def main() -> None:
    """Measure both in turn, and report."""
    parser = arguments(__doc__)
    parser.add_argument("--cells", type=int, default=8, help="cells of an experiment")
    parser.add_argument("--rounds", type=int, default=3, help="experiments of each kind")
    options = parser.parse_args()
    cells, cores = options.cells, len(os.sched_getaffinity(0))
    if cells <= cores:
        parser.error(f"--cells {cells} are a single round here; allowed: more than {cores}")
    kinds: dict[str, tuple[int, int | str]] = {
        "in turn": (cells, 1),
        "side by side": (cells, "auto"),
        "side by side, one round": (cores, "auto"),
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        project = copy_project(Path(folder, "project"))
        first = "pretrain.steps=20,pretrain.warmup_steps=1,tracking.mlflow=never"
        kedro_run(project, "--pipelines=ingest,patch,pretrain", f"--params={first}")
        for number in range(options.rounds):
            for place, (kind, (count, at_once)) in enumerate(kinds.items()):
                unique = len(kinds) * number + place
                times[kind].append(run_cells(project, count, at_once, unique))

    ratios = [
        side / turn for side, turn in zip(times["side by side"], times["in turn"], strict=True)
    ]
    medians = {kind: median(values) for kind, values in times.items()}
    rounds = math.ceil(cells / cores)
    cell_s = (medians["side by side"] - medians["side by side, one round"]) / (rounds - 1)
    start_s = medians["side by side, one round"] - cell_s
    low, high = median_interval(ratios)
    result: dict[str, Any] = {"cells": cells, "cores": cores, "rounds": options.rounds}
    result |= {f"{kind}, s": value for kind, value in medians.items()}
    result |= {
        "side by side/in turn": median(ratios),
        "95 % interval, from": low,
        "95 % interval, to": high,
        "start, s": start_s,
        "a round of cells, s": cell_s,
    }
    result |= {
        f"{count} cores, calculated, s": start_s + math.ceil(cells / count) * cell_s
        for count in _CORES
    }
    report(result, find_device(recipe("base").compute), options.json)


if __name__ == "__main__":
    main()
