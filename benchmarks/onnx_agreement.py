"""Compares the probabilities of an exported ONNX file in ONNX Runtime with those of `predict`.

    python benchmarks/onnx_agreement.py --images photographs --count 500

Photographs from a folder are resized to random sizes, of 20 to 600 pixels a side, and saved as PNG
and as JPEG; the project decodes large JPEGs at a fraction of their size. Each file is classified as
`predict` does it, and by ONNX Runtime from the pixels that Pillow decodes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import PROJECT, arguments, report
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax

from selfie_pipeline.datasets.weights import WeightsDataset
from selfie_pipeline.models.classifier import restore_classifier
from selfie_pipeline.models.export import export_image_classifier, open_session
from selfie_pipeline.models.preprocessing import load_preprocessing
from selfie_pipeline.sources.image_files import read_windows
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.inference import Inference

_SIDES = (20, 600)  # pixels
_CPU = Device("cpu", bf16=False)


def draw_files(photographs: list[Path], count: int, folder: Path, suffix: str) -> list[Path]:
    """Save photographs in random sizes."""
    rng = np.random.default_rng(0)
    files = []
    for number in range(count):
        size = tuple(int(side) for side in rng.integers(*_SIDES, 2, endpoint=True))
        with Image.open(photographs[number % len(photographs)]) as photograph:
            resized = photograph.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        files.append(folder / f"{number}.{suffix}")
        resized.save(files[-1], quality=95, compress_level=1)
    return files


def compare(ours: NDArray[np.float64], found: NDArray[np.float64], name: str) -> dict[str, Any]:
    """Return measures of the differences between two sets of probabilities, (N, classes)."""
    largest = np.abs(ours - found).max(axis=1)  # (N,)
    return {
        f"{name}: images": len(ours),
        f"{name}: median difference": float(np.median(largest)),
        f"{name}: 99 % below": float(np.quantile(largest, 0.99)),
        f"{name}: largest difference": float(largest.max()),
        f"{name}: other class": int((ours.argmax(axis=1) != found.argmax(axis=1)).sum()),
    }


def main() -> None:
    """Compare the two for PNG and JPEG files."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--count", type=int, default=500)
    default = PROJECT / "docs/results/cifar10/selfie-5pct-seed0.safetensors"
    parser.add_argument("--classifier", type=Path, default=default)
    options = parser.parse_args()
    photographs = sorted(options.images.rglob("*.[jJ][pP]*"))
    if not photographs:
        parser.error(f"{options.images} has no JPEGs")
    weights = WeightsDataset(filepath=str(options.classifier)).load()
    preprocessing = load_preprocessing(weights.provenance)
    network = restore_classifier(weights.tensors, weights.provenance)
    session = open_session(export_image_classifier(network, preprocessing, weights.provenance))
    infer = Inference(network, preprocessing.mean, preprocessing.std, _CPU)
    result: dict[str, Any] = {"canvas": preprocessing.patch.canvas_size}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("png", "jpg"):
            files = draw_files(photographs, options.count, Path(folder), suffix)
            windows, *_ = read_windows(files, preprocessing.patch)  # (N, H, W, 3)
            batches = torch.from_numpy(windows).permute(0, 3, 1, 2).split(64)  # (64, 3, H, W) each
            ours = softmax(np.concatenate([infer(batch) for batch in batches]), axis=1)
            found = np.stack(
                [session.run(None, {"image": np.asarray(Image.open(path))})[0] for path in files]
            )
            result |= compare(ours, found, suffix)
    report(result, _CPU, options.json)


if __name__ == "__main__":
    main()
