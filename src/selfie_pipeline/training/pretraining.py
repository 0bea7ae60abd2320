"""Pretraining: from all training images, without labels, to an encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfie_pipeline.config import ModelConfig, PretrainConfig
from selfie_pipeline.models.loading import load_given_weights
from selfie_pipeline.models.patch_grid import patchify
from selfie_pipeline.models.selfie import Selfie
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.augmentation import normalise
from selfie_pipeline.training.data.batches import Batches, WindowReader
from selfie_pipeline.training.data.randomness import seeded_initialisation
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.loop import Fit, StepCallback, fit
from selfie_pipeline.training.memory import network_too_large_error
from selfie_pipeline.training.state import TrainingResult
from selfie_pipeline.training.tasks import PretrainingTask
from selfie_pipeline.weights import Weights


def pretrain(
    model: ModelConfig,
    recipe: PretrainConfig,
    images: WindowReader,
    rows: NDArray[np.int64],
    device: Device,
    checkpoints: Checkpoints,
    callbacks: Sequence[StepCallback] = (),
    fit: Fit = fit,
    initial: Weights | None = None,
) -> TrainingResult:
    """Train P, A and the positions to identify masked patches (paper, "Pretraining Details").

    Args:
        model: The networks' sizes.
        recipe: Steps, batch size, learning rate and seed.
        images: The images to train on.
        rows: (M,), int64: the training samples; all that are not for testing.
        device: The device and the precision.
        checkpoints: The training's checkpoints.
        callbacks: Called after every step.
        fit: The training loop, of this process or of an engine.
        initial: Given weights that P begins from; None for random ones.

    Returns:
        The tensors of a `Selfie`, and the history.

    Raises:
        TrainingInterrupted: A signal asked it to stop; the same call resumes it.
        NonFiniteLossError: The loss is not finite.
        UserError: The given weights do not fit, the network or a batch does not fit in memory, or a
            checkpoint or its lock can't be written.
    """
    with seeded_initialisation(recipe.seed), network_too_large_error():
        network = Selfie(model, images.patch)
    if initial is not None:
        load_given_weights(initial.tensors, network)
    task = PretrainingTask(network, recipe, images)
    batches = Batches(images, rows, recipe.seed, recipe)
    with checkpoints.reserved("pretrain"):
        return fit(task, batches, device, checkpoints, "pretrain", callbacks)


@torch.inference_mode()
def predict_patches(
    network: Selfie,
    images: WindowReader,
    rows: NDArray[np.int64],
    patch_size: int,
    order: Tensor,
    device: Device,
) -> NDArray[np.float32]:
    """Solve the pretext task on the samples' central windows with a pretrained encoder.

    Args:
        network: The encoder; it stays in evaluation mode on the device.
        images: The stored images; their augmentation is not applied.
        rows: (B,), int64: the samples.
        patch_size: Side of a patch in pixels; the windows have N patches, as in the pretraining.
        order: (B, N), int64: the positions of each image's patches, the targets last.
        device: The device and the precision.

    Returns:
        (B, T, T), float32: for target position i, the probability of each target patch j.

    Raises:
        ValueError: `patch_size` does not divide the window.
    """
    network.to(device.type).eval()
    mean, std = torch.from_numpy(images.grids.mean), torch.from_numpy(images.grids.std)
    windows = normalise(images.read_central(rows), mean, std)  # (B, C, H, W)
    patches = patchify(windows, patch_size)  # (B, N, C, P, P)
    with device.autocast():
        scores: Tensor = network(patches.to(device.type), order.to(device.type))  # (B, T, T)
    return scores.softmax(dim=-1).cpu().numpy()
