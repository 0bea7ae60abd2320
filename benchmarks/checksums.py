"""Measures the time of checking the stored pixels, as a share of the stage that stores them.

    python benchmarks/checksums.py

A run that uses a version for the first time reads its shards and compares their checksums. This
check is timed after each run of the patch stage, and divided by the time of that run. The data are
photographs as in `ingest.py`, stored at 256 × 256, and arrays like ImageNet's of 32 × 32, which
need no decoding, so that the stage itself is short. The shards are in the system's page cache.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import arguments, recipe, report, seconds
from ingest import make_images
from kedro.io.core import Version

from selfie_pipeline.config import DataConfig
from selfie_pipeline.datasets.patch_grids import PatchGridDataset, check_pixels
from selfie_pipeline.pipelines.ingest.nodes import list_samples
from selfie_pipeline.pipelines.patch.nodes import cut_patches
from selfie_pipeline.training.device import find_device


def make_arrays(folder: Path, count: int) -> None:
    """Write noise in the format of ImageNet 32×32: ten parts of `count` images, and a test part."""
    random = np.random.default_rng(0)
    for name in (*(f"train_data_batch_{part}" for part in range(1, 11)), "val_data"):
        pixels = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", data=pixels, labels=np.arange(count) % 10 + 1)


def measure(make: Callable[[Path, int], None], count: int, name: str, rounds: int) -> list[float]:
    """Return for each round the check's time as a share of the patch stage's."""
    config = recipe(name)
    shares = []
    with tempfile.TemporaryDirectory() as raw:
        make(Path(raw), count)
        data = DataConfig.model_validate(config.data.model_dump() | {"folder": raw})
        samples, _ = list_samples(data)
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as store:
                grids = PatchGridDataset(
                    filepath=f"{store}/patch_grids", version=Version(None, "v")
                )
                patch = seconds(lambda: grids.save(cut_patches(samples, data, config.patch)))  # noqa: B023
                check = seconds(lambda: check_pixels(Path(grids._get_load_path())))  # noqa: B023
                shares.append(check / patch)
    return shares


def main() -> None:
    """Measure both kinds of data, and report."""
    parser = arguments(__doc__)
    parser.add_argument("--photographs", type=int, default=500)
    parser.add_argument("--arrays", type=int, default=10_000, help="images in each of eleven parts")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    result: dict[str, Any] = {"rounds": options.rounds}
    for title, make, count, name in (
        ("photographs", make_images, options.photographs, "imagenet224"),
        ("arrays", make_arrays, options.arrays, "imagenet32"),
    ):
        shares = measure(make, count, name, options.rounds)
        result[f"{title}, share in %"] = 100 * median(shares)
        result[f"{title}, highest"] = 100 * max(shares)
    report(result, find_device(recipe("base").compute), options.json)


if __name__ == "__main__":
    main()
