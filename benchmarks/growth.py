"""Time a step, memory, and time to the first step, for 1 to 1,000 times the data.

    python benchmarks/growth.py --samples 1281 --recipe imagenet224 --batch 8

The patch grids are sparse files, so 1.28 million samples of 256 pixels need no disk. Each size is
trained on in a process of its own, whose peak resident memory the system reports. Mapped files
count as resident, though the system may drop them at any time: the libraries' code, and the pixels
that are being read. They are reported apart, at their most after a step. Processor time and page
faults are those of all threads; other programs do not add to them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import arguments, bare_step, median, pretraining_task, recipe, report, seconds

from selfie_pipeline.datasets.patch_grids import PatchGrids
from selfie_pipeline.training.data.batches import Batches, Images
from selfie_pipeline.training.data.prefetch import prefetch
from selfie_pipeline.training.device import find_device


def sparse_grids(folder: Path, samples: int, canvas: int, patch: int) -> None:
    """A store of patch grids whose pixels are holes in sparse files."""
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
    """MiB of this process: VmHWM, at most so far; RssAnon, its own; RssFile, mapped files."""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.split(f"{name}:")[1].split()[0]) / 1024


def train(folder: Path, steps: int, name: str, batch: int) -> dict[str, float]:
    """Train a few steps in this process; what it took."""
    config = recipe(name, batch_size=batch)
    device = find_device(config.compute)
    started = time.perf_counter()
    grids = PatchGrids(folder)
    images = Images(grids, config.patch, config.augmentation)
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


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--recipe", default="base", help="base, or a folder of conf/")
    parser.add_argument("--samples", type=int, default=1281, help="of the smallest size")
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed")
    parser.add_argument("--batch", type=int, default=64, help="images of a step")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(train(options.child, options.steps, options.recipe, options.batch)))
        return

    config = recipe(options.recipe)
    result: dict[str, float] = {}
    for factor in (1, 10, 100, 1000):
        with tempfile.TemporaryDirectory() as folder:
            sparse_grids(
                Path(folder),
                options.samples * factor,
                config.patch.canvas_size,
                config.patch.patch_size,
            )
            command = [sys.executable, __file__, "--child", folder, "--recipe", options.recipe]
            command += ["--steps", str(options.steps), "--batch", str(options.batch)]
            child = subprocess.run(
                command,
                check=True,
                capture_output=True,
                text=True,
            )
        found = json.loads(child.stdout.splitlines()[-1])
        result |= {f"{factor}×: {name}": value for name, value in found.items()}
    grows = result["1000×: peak MiB"] / result["1×: peak MiB"] - 1
    later = result["1000×: seconds to the first step"] - result["1×: seconds to the first step"]
    result |= {"peak grows by, %": 100 * grows, "first step comes later by, s": later}
    report(result, find_device(config.compute), options.json)


if __name__ == "__main__":
    main()
