"""Random crop, mirror and normalisation: whole batches at once, on the device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def crop(canvases: Tensor, corners: Tensor, flips: Tensor, image_size: int, padding: int) -> Tensor:
    """Cut a window from each padded canvas, and mirror some left to right.

    Args:
        canvases: (B, C, H, W).
        corners: (B, 2), int64: top and left edge of each window, on the padded canvas.
        flips: (B,), bool: which windows are mirrored.
        image_size: Side of the window, in pixels.
        padding: Zeros on each side of the canvas, in pixels.

    Returns:
        (B, C, image_size, image_size), of the canvases' dtype, in channels-last memory format.
    """
    padded = functional.pad(canvases, (padding,) * 4)  # (B, C, H + 2p, W + 2p)
    along = torch.arange(image_size, device=canvases.device)  # (image_size,)
    rows = corners[:, :1] + along  # (B, image_size)
    across = torch.where(flips[:, None], along.flip(0), along)  # (B, image_size)
    columns = corners[:, 1:] + across  # (B, image_size)
    image = torch.arange(len(canvases), device=canvases.device)[:, None, None]
    windows = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]  # (B,H,W,C)
    return windows.permute(0, 3, 1, 2)  # (B, C, image_size, image_size)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Bring pixels to zero mean and unit deviation.

    Args:
        images: (B, C, H, W), uint8.
        mean: (C,), float32: of the training images' pixels, in units of 255.
        std: (C,), float32, likewise.

    Returns:
        (B, C, H, W), float32, in the images' memory format.
    """
    scale = (1 / (255 * std)).view(-1, 1, 1)  # (C, 1, 1)
    offset = (mean / std).view(-1, 1, 1)  # (C, 1, 1)
    return images.float() * scale - offset
