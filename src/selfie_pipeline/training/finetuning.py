"""Finetuning: from few labels, and with or without pretrained stages, to a classifier."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from tqdm import tqdm

from selfie_pipeline.config import Architecture, FinetuneConfig, ModelConfig, PatchConfig
from selfie_pipeline.models.classifier import Classifier, build_classifier, pretrained_stages
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.augmentation import normalise
from selfie_pipeline.training.data.batches import Batches, Images, shuffled
from selfie_pipeline.training.data.randomness import seeded_initialisation
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.inference import Inference
from selfie_pipeline.training.loop import Fit, StepCallback, TrainingResult, fit
from selfie_pipeline.training.tasks import FinetuningTask

_INFERENCE_BATCH = 256
_STATISTICS_SAMPLES = 10_000
"""Whole images that BatchNorm's statistics are estimated on, where there are as many."""


def fresh_classifier(
    model: ModelConfig, architecture: Architecture, patch: PatchConfig, classes: int, seed: int
) -> Classifier:
    """A network whose weights follow from the seed alone, so that both arms share what is fresh."""
    with seeded_initialisation(seed):
        return build_classifier(model, architecture, patch, classes)


def finetune(
    network: Classifier,
    *,
    handed_over: Collection[str],
    recipe: FinetuneConfig,
    seed: int,
    images: Images,
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    device: Device,
    checkpoints: Checkpoints,
    title: str,
    watch: StepCallback | None = None,
    train: Fit = fit,
) -> TrainingResult:
    """Train the whole network on whole images (paper, "Fine Tuning").

    Args:
        network: Fresh, or with what was pretrained handed over; changed in place.
        handed_over: Names of its tensors that are not fresh; none in the supervised arm.
        recipe: Steps, batch size, learning rates, and what happens before the first step.
        seed: Of the batches and of what drops in A.
        images: What to train on.
        rows: (M,), int64: the labeled samples.
        labels: (M,), int64: their classes.
        device: Where and in which precision.
        checkpoints: Where the training's state is kept.
        title: What progress calls it.
        watch: Looks at the training as it goes, such as to give it up early.
        train: An engine's, where it is not this process that trains.

    Returns:
        The tensors after the last step (no step is chosen by its score), and the history.
    """
    label_of_row = torch.full((int(rows.max()) + 1,), -1)
    label_of_row[torch.tensor(rows)] = torch.tensor(labels)
    if recipe.reestimate_statistics and handed_over:
        chosen = shuffled(seed, len(rows), np.arange(min(len(rows), _STATISTICS_SAMPLES)))
        reestimate_statistics(network, images, rows[chosen], device)
    task = FinetuningTask(network, recipe, images, label_of_row, seed=seed, handed_over=handed_over)
    return train(task, Batches(images, rows, seed, recipe), device, checkpoints, title, watch)


def reestimate_statistics(
    network: Classifier, images: Images, rows: NDArray[np.int64], device: Device
) -> None:
    """Estimate the BatchNorm statistics of P's stages anew: from patches' to whole images'.

    They are means over the batches, of which each is normalised by its own. Training does not
    read them, and forgets them at the rate of BatchNorm's momentum; so this tells in a short
    training, not in a long one.

    Args:
        network: Of which only these statistics are changed; left on the device.
        images: Where the samples lie; their augmentation is not applied.
        rows: (M,), int64: which samples.
        device: Where and in which precision.
    """
    network.to(device.type).to(memory_format=torch.channels_last)
    batches = np.array_split(rows, -(-len(rows) // _INFERENCE_BATCH))  # none of a single image
    with device.autocast():
        update_bn(_central_windows(images, batches, device), pretrained_stages(network))


def classify(
    network: nn.Module, images: Images, rows: NDArray[np.int64], device: Device
) -> NDArray[np.float32]:
    """Class scores of the samples' central windows, neither padded nor mirrored.

    Args:
        network: From images to logits; left in evaluation mode on the device.
        images: Where the samples lie; their augmentation is not applied.
        rows: (M,), int64: which samples.
        device: Where and in which precision.

    Returns:
        (M, classes), float32: logits.
    """
    inference = Inference(network, images.grids.mean, images.grids.std, device)
    batches = [
        rows[start : start + _INFERENCE_BATCH] for start in range(0, len(rows), _INFERENCE_BATCH)
    ]
    quiet = not sys.stderr.isatty()
    progress = tqdm(batches, "classify", unit="batch", delay=5, disable=quiet, leave=False)
    return np.concatenate([inference(images.central(batch)) for batch in progress])


def _central_windows(
    images: Images, batches: Iterable[NDArray[np.int64]], device: Device
) -> Iterator[Tensor]:
    """The normalised central windows of each batch of rows, (B, C, H, W), on the device."""
    mean = torch.from_numpy(images.grids.mean).to(device.type)  # (C,)
    std = torch.from_numpy(images.grids.std).to(device.type)  # (C,)
    for rows in batches:
        yield normalise(images.central(rows).to(device.type), mean, std)
