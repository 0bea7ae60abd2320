"""Measures how a stage's time and memory grow with the data, from 1 to 1,000 times as much.

    python benchmarks/growth.py --stage pretrain --recipe imagenet224 --batch 8
    python benchmarks/growth.py --stage report

Each size runs in a process of its own. "Own memory" is RssAnon: its peak, or in a training what it
is after the last step. Mapped files count as resident as well, though the system may drop them at
any time: the libraries' code, and pixels that are being read; a training's are reported apart.
Processor time and page faults are those of all threads; other programs hardly add to them. An
exponent is the slope of log time over log size, from a size to the next: 1 is linear, 0 constant.

- `pretrain`: some steps on patch grids in sparse files, so that 1.28 million samples of 256 pixels
  need no disk. Its exponent is that of a step.
- `patch`, `predict`: small JPEG files of smooth noise, through the stages ingest and patch, or
  through a classifier with fresh weights. What `predict` returns has a row a file.
- `report`: an experiment whose cells all have results, with its report. Two real cells are trained
  in a few steps; the others are these with other seeds and random answers.
"""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import (
    arguments,
    bare_step,
    copy_project,
    pretraining_task,
    recipe,
    report,
    seconds,
)
from ingest import ours
from PIL import Image
from predict import build_weights, run_node

from selfie_pipeline.config import Config
from selfie_pipeline.datasets.patch_grids import PatchGrids
from selfie_pipeline.project import Project
from selfie_pipeline.training.data.batches import Batches, WindowReader
from selfie_pipeline.training.data.prefetch import prefetch
from selfie_pipeline.training.device import find_device

FACTORS = (1, 10, 100, 1000)
INTERVAL_S = 0.01
ACCURACY = 0.9


def sparse_grids(folder: Path, samples: int, canvas: int, patch: int) -> None:
    """Write a store of patch grids whose pixels are holes in sparse files."""
    side = canvas // patch
    row = (side * side, 3, patch, patch)
    rows_of_shard = max(1, 2**30 // int(np.prod(row)))
    shards = []
    for index, start in enumerate(range(0, samples, rows_of_shard)):
        rows = min(rows_of_shard, samples - start)
        file = folder / f"shard-{index:05d}.npy"
        np.lib.format.open_memmap(file, "w+", np.uint8, (rows, *row))
        shards.append({"file": file.name, "rows": rows, "bytes": file.stat().st_size})
    manifest = {
        "format": 1,
        "fingerprint": "sparse",
        "samples": samples,
        "grid": [side, side],
        "channels": 3,
        "patch_size": patch,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "shards": shards,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")


def resident(name: str) -> float:
    """Return MiB of this process: VmHWM, its peak; RssAnon, its own; RssFile, mapped files."""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.split(f"{name}:")[1].split()[0]) / 1024


def train(folder: Path, config: Config, steps: int) -> dict[str, float]:
    """Train a few steps in this process; return what they took."""
    device = find_device(config.compute)
    started = time.perf_counter()
    grids = PatchGrids(folder)
    images = WindowReader(grids, config.patch, config.augmentation)
    task = pretraining_task(config, images).to(device.type)
    step = bare_step(task, device)
    batches = prefetch(Batches(images, np.arange(len(grids)), 0, config.pretrain), device.type)
    step(next(batches))
    first = time.perf_counter() - started
    wall, processor, faults, files = [], [], [], []
    for _ in range(steps):
        before, processor_before = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
        wall.append(seconds(lambda: step(next(batches))))
        processor.append(time.process_time() - processor_before)
        after = resource.getrusage(resource.RUSAGE_SELF)
        faults.append(after.ru_minflt + after.ru_majflt - before.ru_minflt - before.ru_majflt)
        files.append(resident("RssFile"))
    return {
        "ms a step": 1e3 * median(wall),
        "ms of processor time a step": 1e3 * median(processor),
        "page faults a step": median(faults),
        "seconds to the first step": first,
        "peak MiB": resident("VmHWM"),
        "own memory, MiB": resident("RssAnon"),
        "mapped files at most, MiB": max(files),
    }


def make_jpegs(folder: Path, first: int, count: int) -> None:
    """Write JPEG files of smooth noise, 64 × 64 pixels, no two alike, in two classes and splits."""
    for number in range(first, count):
        noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        path = folder / ("val" if number % 5 == 0 else "train") / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC).save(path, quality=90)


def patch(folder: Path, config: Config) -> dict[str, float]:
    """Ingest and patch a folder in this process; return what it took."""
    return watch(lambda: ours(folder, config, []))


def predict(folder: Path, config: Config) -> dict[str, float]:
    """Classify a folder's files in this process; return what it took."""
    classifier = build_weights(config)
    return watch(lambda: run_node(classifier, folder, config))


def make_project(folder: Path) -> None:
    """Copy the project, and train the two arms of a cell there in a few steps."""
    copy_project(folder)
    training = {"steps": 4, "warmup_steps": 1, "batch_size": 8, "log_every": 2}
    params = {"pretrain": training, "finetune": training, "tracking": {"mlflow": "never"}}
    (folder / "conf/local/parameters.yml").write_text(json.dumps(params), "utf-8")
    project = Project(folder, None, {})
    project.bootstrap()
    project.run("ingest", "patch", "pretrain", "finetune", "baseline")


def make_cells(folder: Path, first: int, count: int) -> None:
    """Add results of other seeds to the two of a project, until there are `count`."""
    for number in range(max(2, first), count):
        arm, seed = ("selfie", "supervised")[number % 2], number // 2
        (real,) = folder.glob(f"data/08_reporting/digits/{arm}/*/seed_0/metrics.json/*/*.json")
        cell = json.loads(real.read_text("utf-8"))
        right = np.random.default_rng(number).random(cell["test_samples"]) < ACCURACY
        cell |= {"seed": seed, "correct": np.packbits(right).tobytes().hex()}
        cell["accuracy"] = float(right.mean())
        cell["provenance"]["seed"] = seed
        path = Path(str(real).replace("seed_0", f"seed_{seed}"))
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(cell), "utf-8")


def report_cells(folder: Path, cells: int) -> dict[str, float]:
    """Run an experiment that has all its results, in this process; return what it took."""
    seeds = {"labeled_fracs": [0.05], "seeds": list(range(cells // 2))}
    project = Project(folder, None, {"experiment": seeds})
    project.bootstrap()
    return watch(lambda: project.run("experiment"))


def watch(action: Callable[[], Any]) -> dict[str, float]:
    """Run something; return the time that it took, and the most memory of this process."""
    done, peaks = threading.Event(), [resident("RssAnon")]

    def look() -> None:
        while not done.wait(INTERVAL_S):
            peaks[0] = max(peaks[0], resident("RssAnon"))

    thread = threading.Thread(target=look)
    thread.start()
    processor = time.process_time()
    wall = seconds(action)
    processor = time.process_time() - processor
    done.set()
    thread.join()
    return {"s": wall, "s of processor time": processor, "own memory, MiB": peaks[0]}


def measure(stage: str, folder: Path, config: Config, steps: int, samples: int) -> dict[str, float]:
    """Run a stage on the data that is in a folder; return what it took."""
    match stage:
        case "pretrain":
            return train(folder, config, steps)
        case "patch":
            return patch(folder, config)
        case "predict":
            return predict(folder, config)
        case _:
            return report_cells(folder, samples)


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process, which need not import the libraries again."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(function, arguments)


def growth(sizes: list[int], found: list[dict[str, float]], stage: str) -> dict[str, float]:
    """Return the exponent of the time, and the growth of memory, from each size to the next."""
    time_name = "ms of processor time a step" if stage == "pretrain" else "s of processor time"
    result: dict[str, float] = {}
    for (n, before), (m, after) in itertools.pairwise(zip(sizes, found, strict=True)):
        slope = math.log(after[time_name] / before[time_name]) / math.log(m / n)
        more = after["own memory, MiB"] - before["own memory, MiB"]
        result |= {f"{n:,} to {m:,}: exponent": slope, f"{n:,} to {m:,}: more memory, MiB": more}
    return result


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    stages = ("pretrain", "patch", "predict", "report")
    parser.add_argument("--stage", choices=stages, default="pretrain")
    parser.add_argument("--recipe", default="base", help="base, or a folder of conf/")
    parser.add_argument(
        "--samples", type=int, help="of the smallest size: 1281, or 10 files, cells"
    )
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed")
    parser.add_argument("--batch", type=int, default=64, help="images of a step")
    options = parser.parse_args()
    config = recipe(options.recipe, batch_size=options.batch)
    smallest = options.samples or (1281 if options.stage == "pretrain" else 10)
    sizes = [smallest * factor for factor in FACTORS]
    found = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if options.stage == "report":
            in_process(make_project, folder)
        for before, samples in itertools.pairwise([0, *sizes]):
            if options.stage == "pretrain":
                sparse_grids(folder, samples, config.patch.canvas_size, config.patch.patch_size)
            else:
                make = make_cells if options.stage == "report" else make_jpegs
                make(folder, before, samples)
            about = options.stage, folder, config, options.steps, samples
            found.append(in_process(measure, *about))
    result: dict[str, Any] = {"stage": options.stage, "recipe": options.recipe}
    for samples, one in zip(sizes, found, strict=True):
        result |= {f"{samples:,}: {name}": value for name, value in one.items()}
    report(result | growth(sizes, found, options.stage), find_device(config.compute), options.json)


if __name__ == "__main__":
    main()
