"""Measures images a second from JPEG files to patch grids, against a bare decode-and-resize.

    python benchmarks/ingest.py
    python benchmarks/ingest.py --folder data/01_raw/imagenet
    python benchmarks/ingest.py --tiles 8 --images 60
    python benchmarks/ingest.py --width 40 --recipe base --images 20000

"Ours" is the stages ingest and patch as they run: they list and digest the files, decode and cut
the images, count the pixels' values, write the shards, flush them to the disk, and look for images
in two splits. "Bare" opens, converts, resizes and crops each image to the same canvas, with a pool
of threads on all cores, and keeps nothing. The two alternate; the reported ratio is the median over
the pairs.

Without a folder, JPEGs of 500 × 375 pixels, as large as those of ImageNet, are parts of
scikit-learn's two photographs, of different sizes and turned. `--tiles 8` puts 8 × 8 of these into
an image, which is then as large and as detailed as a photograph of 12 megapixels; `--width 40`
makes them 40 × 30.
"""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from common import arguments, recipe, report, seconds
from kedro.io.core import Version
from numpy.typing import NDArray
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from selfie_pipeline.config import Config
from selfie_pipeline.datasets.patch_grids import PatchGridDataset
from selfie_pipeline.pipelines.ingest.nodes import list_samples
from selfie_pipeline.pipelines.patch.data_check import check_data
from selfie_pipeline.pipelines.patch.nodes import cut_patches, list_usable_samples
from selfie_pipeline.training.device import find_device


def make_images(folder: Path, count: int, tiles: int = 1, width: int = 500) -> None:
    """Write JPEGs of realistic size, in two classes and two splits."""
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    height = width * 3 // 4
    random = np.random.default_rng(0)
    for number in range(count):
        split = "val" if number % 10 == 0 else "train"
        path = folder / split / str(number % 2) / f"{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (tiles * width, tiles * height))
        for x, y in np.ndindex(tiles, tiles):
            part = cut_part(photographs[number % 2], random).resize((width, height))
            image.paste(part, (x * width, y * height))
        image.rotate(90 * random.integers(0, 4), expand=True).save(path, quality=90)


def cut_part(photograph: Image.Image, random: np.random.Generator) -> Image.Image:
    """Cut out a part of any size, so that few images are versions of each other."""
    width = random.integers(160, 480)
    height = width * 3 // 4
    x, y = (
        random.integers(0, whole - part)
        for whole, part in zip(photograph.size, (width, height), strict=True)
    )
    return photograph.crop((x, y, x + width, y + height))


def ours(folder: Path, config: Config, checks: list[float]) -> None:
    """Run the stages ingest and patch, into a folder that is removed.

    The seconds of the data check are appended to `checks`.
    """
    data = config.data.model_copy(update={"source": "image_folder", "folder": str(folder)})
    with tempfile.TemporaryDirectory() as store:
        samples, _ = list_samples(data)
        grids = PatchGridDataset(filepath=f"{store}/patch_grids", version=Version(None, "v1"))
        grids.save(cut_patches(samples, data, config.patch))
        stored = grids.load()
        start = time.perf_counter()
        duplicates, _, _ = check_data(samples, stored, data)
        checks.append(time.perf_counter() - start)
        list_usable_samples(samples, stored, duplicates, data)


def decode(path: Path, canvas_size: int) -> NDArray[np.uint8]:
    """Decode and resize an image in plain Pillow, for comparison."""
    with Image.open(path) as image:
        size = (canvas_size, canvas_size)
        return np.asarray(ImageOps.fit(image.convert("RGB"), size, Image.Resampling.BICUBIC))


def bare(paths: list[Path], config: Config) -> None:
    """Decode and resize all images with a pool of threads."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(partial(decode, canvas_size=config.patch.canvas_size), paths):
            pass


def main() -> None:
    """Measure both in turn, and report."""
    parser = arguments(__doc__)
    parser.add_argument("--recipe", default="imagenet224", help="for the size of the canvas")
    parser.add_argument("--folder", type=Path, help="with train/CLASS/*.JPEG and val/CLASS/*.JPEG")
    parser.add_argument("--images", type=int, default=1000, help="to make without a folder")
    parser.add_argument("--tiles", type=int, default=1, help="parts along each side of an image")
    parser.add_argument("--width", type=int, default=500, help="of such a part, pixels")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of runs")
    options = parser.parse_args()

    config = recipe(options.recipe)
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder and options.folder.resolve()
        if folder is None:
            folder = Path(made)
            make_images(folder, options.images, options.tiles, options.width)
        paths = sorted(path for path in folder.rglob("*.*") if path.is_file())
        kib = sum(path.stat().st_size for path in paths) / len(paths) / 1024
        bare(paths, config)  # warm-up; the files are in the page cache now
        checks: list[float] = []
        pairs = [
            (seconds(lambda: bare(paths, config)), seconds(lambda: ours(folder, config, checks)))
            for _ in range(options.pairs)
        ]
    ratios = [theirs / mine for theirs, mine in pairs]
    shares = [check / mine for check, (_, mine) in zip(checks, pairs, strict=True)]
    report(
        {
            "images": len(paths),
            "KiB an image": kib,
            "canvas": config.patch.canvas_size,
            "cores": os.cpu_count(),
            "bare, images a second": len(paths) / median([pair[0] for pair in pairs]),
            "ours, images a second": len(paths) / median([pair[1] for pair in pairs]),
            "ratio": median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
            "check of the data, share of ours": median(shares),
        },
        find_device(config.compute),
        options.json,
    )


if __name__ == "__main__":
    main()
