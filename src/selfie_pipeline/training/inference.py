"""Inference: a network's outputs for stored images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selfie_pipeline.config import UserError
from selfie_pipeline.progress import track
from selfie_pipeline.training.data.augmentation import normalise
from selfie_pipeline.training.data.batches import WindowReader
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.memory import retain_freed_memory

_BATCH_SIZE = 256


class NonFiniteOutputError(UserError):
    """A network's outputs are infinite or not numbers: an update has made its weights so."""


class Inference:
    """A network in evaluation mode, which maps batches of stored pixels to its outputs."""

    def __init__(
        self,
        network: nn.Module,
        mean: NDArray[np.float32],
        std: NDArray[np.float32],
        device: Device,
    ) -> None:
        """Move the network to the device in evaluation mode; it stays there.

        Args:
            network: A network from (B, C, H, W), normalised images, to (B, K).
            mean: (C,): mean of the training pixels, for pixels scaled to 0 to 1.
            std: (C,): standard deviation of the training pixels, for pixels scaled to 0 to 1.
            device: The device and the precision.
        """
        if device.type == "cpu":
            retain_freed_memory()
        self._network = network.to(device.type).to(memory_format=torch.channels_last).eval()
        self._mean = torch.from_numpy(mean).to(device.type)  # (C,)
        self._std = torch.from_numpy(std).to(device.type)  # (C,)
        self.device = device

    @torch.inference_mode()
    def __call__(self, windows: Tensor) -> NDArray[np.float32]:
        """Compute the network's outputs.

        Args:
            windows: (B, C, H, W), uint8.

        Returns:
            (B, K), float32.

        Raises:
            NonFiniteOutputError: An output is infinite or not a number.
        """
        images = normalise(windows.to(self.device.type), self._mean, self._std)  # (B, C, H, W)
        with self.device.autocast():
            # Not by calling it: that would compile a network that was trained compiled once more.
            outputs: Tensor = self._network.forward(images)  # (B, K)
        found: NDArray[np.float32] = outputs.float().cpu().numpy()
        if not np.isfinite(found).all():
            raise NonFiniteOutputError(
                "the network's outputs are not finite, because its training diverged; train it "
                "again (resume=never) with a lower peak_learning_rate, or clip_norm"
            )
        return found


def compute_outputs(
    network: nn.Module, images: WindowReader, rows: NDArray[np.int64], device: Device, title: str
) -> NDArray[np.float32]:
    """Compute a network's outputs for the samples' central windows, neither padded nor mirrored.

    Args:
        network: From images to vectors or logits; it stays in evaluation mode on the device.
        images: The stored images; their augmentation is not applied.
        rows: (M,), int64: the samples.
        device: The device and the precision.
        title: The name of the progress bar.

    Returns:
        (M, K), float32.

    Raises:
        NonFiniteOutputError: An output is infinite or not a number.
    """
    infer = Inference(network, images.grids.mean, images.grids.std, device)
    batches = np.split(rows, range(_BATCH_SIZE, len(rows), _BATCH_SIZE))
    progress = track(title, len(batches), batches, unit=" batches", leave=False)
    return np.concatenate([infer(images.read_central(batch)) for batch in progress])


def compute_accuracy(
    network: nn.Module,
    images: WindowReader,
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    device: Device,
) -> float:
    """Compute the share of the samples that a classifier assigns to their classes, 0 to 1.

    Args:
        network: From images to logits; it stays in evaluation mode on the device.
        images: The stored images; their augmentation is not applied.
        rows: (M,), int64: the samples; at least one.
        labels: (M,), int64: their classes.
        device: The device and the precision.

    Raises:
        NonFiniteOutputError: A logit is infinite or not a number.
    """
    logits = compute_outputs(network, images, rows, device, "classify")  # (M, K)
    return float((logits.argmax(axis=1) == labels).mean())
