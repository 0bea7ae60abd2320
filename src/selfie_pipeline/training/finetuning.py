"""Finetuning: from few labels, and with or without pretrained stages, to a classifier."""

from __future__ import annotations

import sys

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.resnetv2 import ResNetV2
from torch import nn
from tqdm import tqdm

from selfie_pipeline.config import ModelConfig, TrainingConfig
from selfie_pipeline.models.backbone import build_resnet
from selfie_pipeline.training.augmentation import normalise
from selfie_pipeline.training.batches import Batches, Images
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.loop import Trained, fit
from selfie_pipeline.training.randomness import fresh_weights
from selfie_pipeline.training.tasks import FinetuningTask

_INFERENCE_BATCH = 256


def fresh_classifier(model: ModelConfig, classes: int, seed: int) -> ResNetV2:
    """A ResNet whose weights follow from the seed alone, so that both arms share what is fresh."""
    with fresh_weights(seed):
        return build_resnet(model, classes)


def finetune(
    network: ResNetV2,
    *,
    recipe: TrainingConfig,
    seed: int,
    images: Images,
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    device: Device,
    checkpoints: Checkpoints,
    title: str,
) -> Trained:
    """Train the whole network on whole images (paper, "Fine Tuning").

    Args:
        network: Fresh, or with pretrained stages handed over; changed in place.
        recipe: Steps, batch size and learning rate.
        seed: Of the batches.
        images: What to train on.
        rows: (M,), int64: the labeled samples.
        labels: (M,), int64: their classes.
        device: Where and in which precision.
        checkpoints: Where the training's state is kept.
        title: What progress calls it.

    Returns:
        The tensors after the last step (no step is chosen by its score), and the history.
    """
    label_of_row = torch.full((int(rows.max()) + 1,), -1)
    label_of_row[torch.tensor(rows)] = torch.tensor(labels)
    task = FinetuningTask(network, recipe, images, label_of_row)
    return fit(task, Batches(images, rows, seed, recipe), device, checkpoints, title)


@torch.inference_mode()
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
    network = network.to(device.type).to(memory_format=torch.channels_last).eval()
    mean = torch.from_numpy(images.grids.mean).to(device.type)
    std = torch.from_numpy(images.grids.std).to(device.type)
    scores = []
    starts = range(0, len(rows), _INFERENCE_BATCH)
    quiet = not sys.stderr.isatty()
    for start in tqdm(starts, "classify", unit="batch", delay=5, disable=quiet, leave=False):
        windows = images.central(rows[start : start + _INFERENCE_BATCH]).to(device.type)
        with device.autocast():
            logits = network(normalise(windows, mean, std))  # (B, classes)
        scores.append(logits.float().cpu())
    return torch.cat(scores).numpy()
