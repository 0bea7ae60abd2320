"""Image files a second through `kedro run --pipeline=predict`, and where the time goes.

    python benchmarks/predict.py
    python benchmarks/predict.py --recipe cifar10_small --rounds 7

The files are scikit-learn's digits as 32 × 32 PNG; the network is the recipe's classifier with
fresh weights, as fast as with trained ones. Ours is the node as it runs on all cores, from the
list of the folder to the table. Beside it stand the two parts on one core, decoding alone and the
network alone, and what no float32 could beat: the network's floating-point operations, counted,
over the processor's rate, the better of a large matrix product and a large convolution, measured
in the same rounds. Medians over the rounds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from common import arguments, best_rate, drawn_digits, median, recipe, report, seconds
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from selfie_pipeline.config import Config
from selfie_pipeline.datasets.weights import Weights
from selfie_pipeline.pipelines.predict.nodes import classify_files
from selfie_pipeline.provenance import configuration
from selfie_pipeline.sources.image_files import list_files, read_windows
from selfie_pipeline.training.device import find_device
from selfie_pipeline.training.finetuning import fresh_classifier
from selfie_pipeline.training.inference import Inference, one_thread_a_batch

BATCH = 64


def fresh_weights(config: Config) -> Weights:
    """A classifier of ten classes, as finetuning saves it."""
    network = fresh_classifier(config.model, config.finetune.architecture, config.patch, 10, seed=0)
    made_with = configuration(patch=config.patch, model=config.model, finetune=config.finetune)
    origin = {"encoder": None, "configuration": made_with, "mean": [0.5] * 3, "std": [0.25] * 3}
    return Weights(network.state_dict(), {**origin, "classes": [str(digit) for digit in range(10)]})


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--recipe", default="base", help="base, or a folder of conf/")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    config = recipe(options.recipe)
    device = find_device(config.compute)
    classifier = fresh_weights(config)
    arm = config.predict.model_copy(update={"arm": "supervised"})
    network = fresh_classifier(config.model, config.finetune.architecture, config.patch, 10, seed=0)
    infer = Inference(network, np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32), device)
    rates: dict[str, list[float]] = {"all": [], "decoding": [], "network": [], "limit": []}
    with tempfile.TemporaryDirectory() as folder:
        for number, pixels in enumerate(drawn_digits()):
            Image.fromarray(pixels).save(Path(folder, f"{number:05d}.png"))
        files = list_files(Path(folder))
        pixels, _ = read_windows(files[:BATCH], config.patch)  # (BATCH, H, W, C)
        windows = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # (BATCH, C, H, W)
        with FlopCounterMode(display=False) as counter:
            infer(windows)
        operations = counter.get_total_flops() / BATCH
        for _ in range(options.rounds):
            whole = seconds(lambda: classify_files(classifier, folder, arm, config.compute))
            rates["all"].append(len(files) / whole)
            with one_thread_a_batch():
                rates["decoding"].append(
                    BATCH / seconds(lambda: read_windows(files[:BATCH], config.patch), repeat=4)
                )
                rates["network"].append(BATCH / seconds(lambda: infer(windows), repeat=4))
                rates["limit"].append(best_rate(device) / operations)
    report(
        {
            "recipe": options.recipe,
            "files": len(files),
            "MFLOP an image": operations / 1e6,
            "files a second, all cores": median(rates["all"]),
            "decoded a second, one core": median(rates["decoding"]),
            "classified a second, one core": median(rates["network"]),
            "limit a second, one core": median(rates["limit"]),
        },
        device,
        options.json,
    )


if __name__ == "__main__":
    main()
