"""A classifier and its preprocessing as one network: from an image of any size to probabilities.

The preprocessing is that of the training images, which Pillow resizes: bicubic, antialiased, first
each row, then each column, and rounded to whole numbers after both. Here it is two matrix products,
which all programs that read ONNX compute alike. ONNX's Resize is not used: some programs ignore its
antialiasing, and the crop that Pillow resizes may begin at half a pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from selfie_pipeline.models.classifier import Classifier
from selfie_pipeline.models.preprocessing import Preprocessing


class ImageClassifier(nn.Module):
    """A classifier of whole images, one at a time, in float32."""

    scale: Tensor
    offset: Tensor

    def __init__(self, network: Classifier, preprocessing: Preprocessing) -> None:
        """Combine a classifier with its preprocessing.

        Args:
            network: From normalised images to logits.
            preprocessing: Sizes of canvas and window, mean and standard deviation.
        """
        super().__init__()
        self.network = network
        self.patch = preprocessing.patch
        mean, std = torch.from_numpy(preprocessing.mean), torch.from_numpy(preprocessing.std)
        self.register_buffer("scale", (1 / (255 * std)).view(3, 1, 1))
        self.register_buffer("offset", (mean / std).view(3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Classify an image, (H, W, 3), uint8, RGB: probabilities, (classes,), float32."""
        window = fit_window(image, self.patch.canvas_size, self.patch.image_size)  # (3, S, S)
        logits: Tensor = self.network((window * self.scale - self.offset)[None])  # (1, classes)
        return logits.softmax(dim=1)[0]  # (classes,)


def fit_window(image: Tensor, canvas_size: int, window_size: int) -> Tensor:
    """Fit an image to the canvas, as `sources.base.fit_image` does, and crop the central window.

    Args:
        image: (H, W, 3), uint8; both sides may be shorter than the canvas.
        canvas_size: Length that the shorter side is resized to, pixels.
        window_size: Side of the window, S, pixels.

    Returns:
        (3, S, S), float32: whole numbers from 0 to 255.
    """
    height, width, _ = image.shape
    side = torch.minimum(torch.scalar_tensor(height), torch.scalar_tensor(width))
    scale = side / canvas_size
    margin = (canvas_size - window_size) // 2
    places = torch.arange(window_size) + (margin + 0.5 - canvas_size / 2)  # (S,)
    columns = _bicubic_weights(width, places * scale, scale)  # (S, W)
    rows = _bicubic_weights(height, places * scale, scale)  # (S, H)
    narrowed = _to_pixels(image.permute(2, 0, 1).float() @ columns.T)  # (3, H, S)
    return _to_pixels(rows @ narrowed)  # (3, S, S)


def _bicubic_weights(length: int, centres: Tensor, scale: Tensor) -> Tensor:
    """Return the weight of each old pixel in each new one: (S, length), rows of sum 1.

    Args:
        length: Number of old pixels.
        centres: (S,): centres of the new pixels, in old pixels from the middle of the old ones.
        scale: Old pixels per new one; above 1, the filter is as much wider.
    """
    pixels = torch.arange(length) + (0.5 - torch.scalar_tensor(length) / 2)  # (length,)
    distance = ((pixels - centres[:, None]) / scale.clamp(min=1)).abs()  # (S, length)
    near = (1.5 * distance - 2.5) * distance**2 + 1  # Keys's cubic with a = -0.5, as Pillow's
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))  # noqa: PLR2004
    return weights / weights.sum(dim=1, keepdim=True)


def _to_pixels(values: Tensor) -> Tensor:
    return (values + 0.5).floor().clamp(0, 255)
