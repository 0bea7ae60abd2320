"""Inference: a network's outputs for stored images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selfie_pipeline.training.data.augmentation import normalise
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.memory import retain_freed_memory


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
        """
        images = normalise(windows.to(self.device.type), self._mean, self._std)  # (B, C, H, W)
        with self.device.autocast():
            # Not by calling it: that would compile a network that was trained compiled once more.
            outputs: Tensor = self._network.forward(images)  # (B, K)
        return outputs.float().cpu().numpy()
