"""Compares labeling the images that `suggest` names with labeling images drawn at random.

    python benchmarks/suggest.py --data data/01_raw/cifar-10-batches-py --steps 1200 --batch 32

The data are CIFAR-10 with the small recipe, and the encoder is that of docs/results/cifar10. For
each seed, a classifier is finetuned on 2.5 % of the labels. As many images again are then labeled:
either those that it suggests, or images drawn at random from the same pool. On each of the two sets
of 5 % a new classifier is finetuned, with the same seed, and scored on the test split.

With `--json FILE`, every seed is written as soon as it is done, and is not computed again.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
from common import PROJECT, ArrayGrids, arguments, no_checkpoints, recipe, report
from numpy.typing import NDArray

from selfie_pipeline.datasets.weights import WeightsDataset
from selfie_pipeline.evaluation.predictions import find_top_two
from selfie_pipeline.evaluation.statistics import paired_t_p, summarise
from selfie_pipeline.evaluation.suggestions import select_diverse
from selfie_pipeline.models.backbone import PatchNetwork
from selfie_pipeline.models.classifier import Classifier
from selfie_pipeline.models.selfie import restore_encoder
from selfie_pipeline.sources.cifar10 import read_cifar10
from selfie_pipeline.training.data.batches import WindowReader
from selfie_pipeline.training.data.subset import labeled_subset
from selfie_pipeline.training.device import find_device
from selfie_pipeline.training.finetuning import (
    finetune,
    initialise_classifier,
    load_encoder_into,
)
from selfie_pipeline.training.inference import compute_accuracy, compute_outputs

_TRAIN = 50_000


class Cifar:
    """CIFAR-10 in memory, the small recipe, and an encoder."""

    def __init__(
        self, folder: Path, encoder: Path, steps: int, batch_size: int, rate: float
    ) -> None:
        changes = {"steps": steps, "batch_size": batch_size, "peak_learning_rate": rate}
        config = recipe("cifar10_small")
        self.config = config
        self.recipe = config.finetune.model_copy(update=changes)
        source = read_cifar10(folder)
        samples = source.samples()
        self.labels = samples["label"].to_numpy()
        pixels = np.concatenate([chunk.images for chunk in source.images(samples, 32)])
        grids = ArrayGrids(pixels, config.patch.patch_size, train=_TRAIN)
        self.images = WindowReader(grids, config.patch, config.augmentation)
        self.encoder = WeightsDataset(filepath=str(encoder)).load()
        self.device = find_device(config.compute)

    def finetune(self, rows: NDArray[np.int64], seed: int) -> Classifier:
        """Finetune a classifier on these training images."""
        config = self.config
        network = initialise_classifier(config.model, "resnet", config.patch, 10, seed)
        finetune(
            network,
            pretrained=load_encoder_into(network, self.encoder, config.model),
            recipe=self.recipe,
            seed=seed,
            images=self.images,
            rows=rows,
            labels=self.labels[rows],
            device=self.device,
            checkpoints=no_checkpoints(),
            title=f"{len(rows):,} labels, seed {seed}",
        )
        return network

    def score(self, network: Classifier) -> float:
        """Return the test accuracy in %."""
        test = np.arange(_TRAIN, len(self.labels))
        labels = self.labels[test]
        return 100 * compute_accuracy(network, self.images, test, labels, self.device)

    def infer(self, network: Classifier | PatchNetwork, rows: NDArray[np.int64]) -> NDArray:
        """Return the network's outputs for whole images: (M, K)."""
        return compute_outputs(network, self.images, rows, self.device, "classify")

    def vectors(self, rows: NDArray[np.int64]) -> NDArray:
        """Return the encoder's vectors: (M, D)."""
        network = restore_encoder(self.encoder.tensors, self.encoder.provenance)
        return self.infer(network.patch_network, rows)


def compare(cifar: Cifar, seed: int, candidates: int) -> dict[str, float]:
    """Return the accuracies of one seed in %, and the spread of the classes."""
    first = labeled_subset(cifar.labels[:_TRAIN], 0.025, seed)
    pool = np.setdiff1d(np.arange(_TRAIN), first)
    count = len(first)
    network = cifar.finetune(first, seed)
    probabilities = find_top_two(cifar.infer(network, pool)).probabilities  # (M, 2)
    margins = probabilities[:, 0] - probabilities[:, 1]  # (M,)
    unsure = np.argsort(margins, kind="stable")[: candidates * count]
    chosen = select_diverse(cifar.vectors(pool[unsure]), margins[unsure], count, seed)
    arms = {
        "suggested": pool[unsure[chosen]],
        "random": np.random.default_rng(seed).choice(pool, count, replace=False),
    }
    result = {"seed": seed, "2.5 %": cifar.score(network)}
    for arm, added in arms.items():
        result[arm] = cifar.score(cifar.finetune(np.union1d(first, added), seed))
        result[f"{arm}: largest class"] = max(Counter(cifar.labels[added]).values()) / count
    return result


def main() -> None:
    """Compare the two, seed by seed."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10's folder")
    default = PROJECT / "docs/results/cifar10/encoder.safetensors"
    parser.add_argument("--encoder", type=Path, default=default)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1200, help="of each finetuning")
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--rate", type=float, default=0.05, help="peak learning rate")
    parser.add_argument("--candidates", type=int, default=10, help="for each image to be chosen")
    options = parser.parse_args()
    cifar = Cifar(options.data, options.encoder, options.steps, options.batch, options.rate)
    done = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    rows = done.get("seeds", [])
    settings = {key: getattr(options, key) for key in ("steps", "batch", "rate", "candidates")}
    if done and settings != {key: done[key] for key in settings}:
        parser.error(f"{options.json} has other settings")
    for seed in range(len(rows), options.seeds):
        rows.append(compare(cifar, seed, options.candidates))
        suggested, random = ([row[arm] for row in rows] for arm in ("suggested", "random"))
        gains = np.subtract(suggested, random)
        gain = summarise(gains)
        result = {
            **settings,
            "2.5 %, mean": summarise([row["2.5 %"] for row in rows]).mean,
            "random, mean": summarise(random).mean,
            "suggested, mean": summarise(suggested).mean,
            "difference": gain.mean,
            "low": gain.low,
            "high": gain.high,
            "p": paired_t_p(gains),
            "seeds": rows,
        }
        report(result, cifar.device, options.json)


if __name__ == "__main__":
    main()
