"""Packs what a machine without network needs for `gpu.py`: wheels, and CIFAR-10 without loss.

    python benchmarks/gpu_bundle.py --cifar10 data/01_raw/cifar-10-batches-py --out build/gpu

The machine is expected to have torch and most of the field's libraries in its own versions; the
wheels in `WHEELS` are added, for its Python. The images are stored as lossless WebP, 500 below each
other in a file: 1,670 bytes an image, a third less than PNG. They are divided into parcels,
`part-1`, `part-2` and so on, none above the size limit. The first has the wheels, and with
`--selfie` the code of a peer that `peers.py` runs.
"""

from __future__ import annotations

import argparse
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WHEELS = [
    "annotated-types",
    "antlr4-python3-runtime",
    "dynaconf",
    "hydra-core",
    "kedro",
    "lightly",
    "more-itertools",
    "omegaconf",
    "parse",
    "pydantic",
    "pydantic-core",
    "typing-inspection",
]
STRIP = 500  # images of a file; WebP allows 16,383 pixels a side
FILES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


def main() -> None:
    """Make the parcels, and check their size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar10", type=Path, required=True, help="folder of the python version")
    parser.add_argument("--out", type=Path, required=True, help="folder for the parcels")
    parser.add_argument("--selfie", type=Path, help="checkout of wuhoward/SELFIE, to take along")
    parser.add_argument("--limit-mib", type=float, default=64, help="of a parcel with the project")
    parser.add_argument("--python", default="3.12", help="version of the machine's Python")
    options = parser.parse_args()

    limit = int(options.limit_mib * 2**20) - project_bytes()
    if limit <= 0:
        raise SystemExit(f"the project alone has {project_bytes() / 2**20:.1f} MiB")
    parcel = options.out / "part-1"
    parcel.mkdir(parents=True)
    collect_wheels(parcel / "wheels", options.python)
    if options.selfie:
        (parcel / "selfie").mkdir()
        for code in options.selfie.glob("*.py"):
            shutil.copy(code, parcel / "selfie")
    images, labels = read_cifar10(options.cifar10)
    np.save(parcel / "labels.npy", labels.astype(np.uint8))
    with ThreadPoolExecutor() as pool:
        starts = range(0, len(images), STRIP)
        list(pool.map(lambda at: write_strip(options.out, at, images[at : at + STRIP]), starts))
    number, left = 1, limit - folder_bytes(parcel)
    for strip in sorted(options.out.glob("*.webp")):
        if strip.stat().st_size > left:
            number, left = number + 1, limit
            parcel = options.out / f"part-{number}"
            parcel.mkdir()
        left -= strip.stat().st_size
        strip.rename(parcel / strip.name)
    restored, _ = load_cifar10(options.out)
    if not np.array_equal(restored, images):
        raise SystemExit("the images do not come back as they were")
    for parcel in sorted(options.out.iterdir()):
        size = (folder_bytes(parcel) + project_bytes()) / 2**20
        print(f"{parcel}: {size:.1f} MiB with the project, {options.limit_mib:g} allowed")
        if size > options.limit_mib:
            raise SystemExit("that does not fit")


def project_bytes() -> int:
    """Return the size of the project's files, bytes."""
    root = Path(__file__).parents[1]
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    return sum((root / name).stat().st_size for name in names if name)


def folder_bytes(folder: Path) -> int:
    """Return the size of a folder's files, bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def collect_wheels(folder: Path, python: str) -> None:
    """Download the wheels for the machine; build those that are only published as source."""
    project = Path(__file__).parents[1]
    constraints = project / "constraints.txt"
    pip = [sys.executable, "-m", "pip"]
    common = ["--no-deps", "--quiet", "--constraint", str(constraints)]
    target = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    platforms = [f"--platform=manylinux{tag}_x86_64" for tag in ("2014", "_2_17", "_2_28")]
    wheel = [*pip, "wheel", *common, "--wheel-dir", str(folder)]
    subprocess.run([*wheel, str(project)], check=True)
    for name in WHEELS:
        download = [*pip, "download", *common, *target, *platforms, "--dest", str(folder), name]
        if subprocess.run(download, capture_output=True, check=False).returncode:
            subprocess.run([*wheel, name], check=True)


def read_cifar10(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read the published files: 50,000 training images, then 10,000 test images."""
    pixels, labels = [], []
    for name in FILES:
        with (folder / name).open("rb") as file:
            batch = pickle.load(file, encoding="bytes")
        pixels.append(batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))  # (M, H, W, C)
        labels.extend(batch[b"labels"])
    return np.concatenate(pixels), np.array(labels, dtype=np.int64)


def write_strip(out: Path, start: int, images: NDArray[np.uint8]) -> None:
    """Write images, (M, H, W, C), below each other in one file."""
    strip = Image.fromarray(np.ascontiguousarray(images.reshape(-1, *images.shape[2:])))
    strip.save(out / f"{start:06d}.webp", lossless=True, quality=80, method=4, exact=True)


def load_cifar10(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Load the images of all parcels under a folder, (M, 32, 32, 3), and their labels."""
    strips = sorted(folder.rglob("*.webp"), key=lambda path: path.name)
    with ThreadPoolExecutor() as pool:
        decoded = list(pool.map(lambda path: np.asarray(Image.open(path).convert("RGB")), strips))
    images = np.concatenate([strip.reshape(-1, 32, 32, 3) for strip in decoded])
    (labels,) = folder.rglob("labels.npy")
    return images, np.load(labels).astype(np.int64)


if __name__ == "__main__":
    main()
