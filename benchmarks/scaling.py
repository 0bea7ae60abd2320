"""Measures Ray's overhead in a training, and the speed-up of an experiment by a second slot.

    python benchmarks/scaling.py --json docs/results/benchmarks/scaling.json

Both are measured on one machine, each training in one thread.

The overhead: the same training runs alternately in this process and in a Ray worker, so that other
load on the machine slows both. The reported figure is the median, over the pairs of runs, of the
ratio of the median step times. The start of the worker is reported separately.

The speed-up: the cells of an experiment on the digits run on a cluster with one slot for a cell and
on one with two. The ideal is twice as many cells an hour. The start of the processes is included.
"""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import ray
import torch
from common import (
    arguments,
    copy_project,
    digit_images,
    median_interval,
    no_checkpoints,
    recipe,
    report,
    seconds,
)
from kedro.framework.startup import bootstrap_project

from selfie_pipeline.config import Config
from selfie_pipeline.models.selfie import Selfie
from selfie_pipeline.project import Project
from selfie_pipeline.training.data.batches import Batches
from selfie_pipeline.training.data.randomness import seeded_initialisation
from selfie_pipeline.training.device import find_device
from selfie_pipeline.training.engine import open_engine
from selfie_pipeline.training.loop import Fit
from selfie_pipeline.training.tasks import PretrainingTask

WARM_UP = 10
"""Number of first steps of a training, which are not measured."""


class Timed(PretrainingTask):
    """A pretraining task that writes the time of each step to a file."""

    file: str

    def forward(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the time at the start of a step."""
        with Path(self.file).open("a") as file:
            file.write(f"{time.perf_counter()}\n")
        return super().forward(batch)


def start_ray(cpus: int) -> None:
    """Start a cluster on this machine with so many of its CPUs."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        logging_level=logging.WARNING,
    )


def train(config: Config, fit: Fit, file: Path) -> float:
    """Train, and return the median time of a step, seconds."""
    images, rows = digit_images(config)
    with seeded_initialisation(0):
        task = Timed(Selfie(config.model, config.patch), config.pretrain, images)
    task.file = str(file)
    batches = Batches(images, rows, 0, config.pretrain)
    fit(task, batches, find_device(config.compute), no_checkpoints(), "scaling")
    stamps = np.loadtxt(file)
    return float(np.median(np.diff(stamps)[WARM_UP:]))


def measure_overhead(steps: int, pairs: int) -> dict[str, float]:
    """Measure the time of a step in a Ray worker against one in this process."""
    config = recipe("base", steps=steps, warmup_steps=1)
    on_ray = config.compute.model_copy(update={"engine": "ray", "accelerator": "cpu"})
    ratios, here, there, starts = [], [], [], []
    start_ray(1)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_engine(config.compute) as local,
        open_engine(on_ray) as workers,
    ):
        for pair in range(pairs):
            here.append(train(config, local.fit, Path(folder, f"here-{pair}")))
            file = Path(folder, f"there-{pair}")
            whole = seconds(lambda file=file: there.append(train(config, workers.fit, file)))
            starts.append(whole - steps * there[-1])
            ratios.append(there[-1] / here[-1])
    ray.shutdown()
    low, high = median_interval(ratios)
    return {
        "pairs of trainings": pairs,
        "steps of each": steps,
        "here, ms a step": 1e3 * median(here),
        "through Ray, ms a step": 1e3 * median(there),
        "overhead, %": 100 * (median(ratios) - 1),
        "95 % interval, from, %": 100 * (low - 1),
        "95 % interval, to, %": 100 * (high - 1),
        "start and end through Ray, s": statistics.median(starts),
    }


def measure_cells(cells: int, steps: int) -> dict[str, float]:
    """Measure cells an hour with one slot and with two."""
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        path = copy_project(Path(folder, "project"))
        bootstrap_project(path)
        os.chdir(path)
        params = {"pretrain": {"steps": 20, "warmup_steps": 1}, "compute": {"accelerator": "cpu"}}
        Project(path, None, params).run("ingest")
        Project(path, None, params).run("patch")
        Project(path, None, params).run("pretrain")
        for slots in (1, 2):
            start_ray(slots)
            project = Project(
                path,
                None,
                {
                    "finetune": {
                        "steps": steps,
                        "weight_decay": 1e-4 * slots,
                    },  # none is there yet
                    "experiment": {
                        "labeled_fracs": [0.1],
                        "seeds": list(range(cells)),
                        "arms": ["supervised"],
                    },
                    "compute": {"engine": "ray", "accelerator": "cpu"},
                },
            )
            rates[slots] = 3600 * cells / seconds(lambda project=project: project.run("cells"))
            ray.shutdown()
    return {
        "cells": cells,
        "steps of a cell": steps,
        "cells an hour, 1 slot": rates[1],
        "cells an hour, 2 slots": rates[2],
        "of the ideal, %": 100 * rates[2] / (2 * rates[1]),
    }


def main() -> None:
    """Measure both, and report."""
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=150, help="steps of a training")
    parser.add_argument("--pairs", type=int, default=6, help="trainings here, and through Ray")
    parser.add_argument("--cells", type=int, default=6, help="cells of the experiment")
    parser.add_argument("--cell-steps", type=int, default=200, help="steps of a cell")
    options = parser.parse_args()

    torch.set_num_threads(1)
    device = find_device(recipe("base").compute)
    result = measure_overhead(options.steps, options.pairs)
    result |= measure_cells(options.cells, options.cell_steps)
    report(result, device, options.json)


if __name__ == "__main__":
    main()
