"""A classifier and its preprocessing as one network: from an image of any size to probabilities.

The preprocessing is that of the training images: a square from the middle is resized (bicubic,
antialiased), first each row, then each column, and rounded to whole numbers after both. Here it is
two matrix products, which all programs that read ONNX compute alike; some ignore the antialiasing
of ONNX's own Resize.
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
        """Combine a classifier, from normalised images to logits, with its preprocessing."""
        super().__init__()
        self.network = network
        self.patch = preprocessing.patch
        mean, std = torch.from_numpy(preprocessing.mean), torch.from_numpy(preprocessing.std)
        self.register_buffer("scale", (1 / (255 * std)).view(3, 1, 1))  # (3, 1, 1)
        self.register_buffer("offset", (mean / std).view(3, 1, 1))  # (3, 1, 1)

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
    margin = (canvas_size - window_size) // 2
    places = (torch.arange(window_size) + (margin + 0.5)) * (side / canvas_size)  # (S,)
    columns = _bicubic_weights(width, side, places, canvas_size)  # (S, W)
    rows = _bicubic_weights(height, side, places, canvas_size)  # (S, H)
    narrowed = _to_pixels(image.permute(2, 0, 1).float() @ columns.T)  # (3, H, S)
    return _to_pixels(rows @ narrowed)  # (3, S, S)


def _bicubic_weights(length: int, side: Tensor, places: Tensor, canvas_size: int) -> Tensor:
    """Return the weight of each old pixel in each new one: (S, length), rows of sum 1.

    Args:
        length: Number of old pixels.
        side: Number of them that are not cropped.
        places: (S,): centres of the new pixels, in old pixels from the first that is not cropped.
        canvas_size: Number of pixels that these become.
    """
    first = torch.floor((length - side) / 2)
    pixels = torch.arange(length) + 0.5 - first  # (length,)
    spread = (side / canvas_size).clamp(min=1)  # of the filter, in old pixels
    distance = ((pixels - places[:, None]) / spread).abs()  # (S, length)
    near = (1.5 * distance - 2.5) * distance**2 + 1  # Keys's cubic with a = -0.5
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))  # noqa: PLR2004
    weights = weights * ((pixels > 0) & (pixels < side))  # (S, length)
    return weights / weights.sum(dim=1, keepdim=True)


def _to_pixels(values: Tensor) -> Tensor:
    return (values + 0.5).floor().clamp(0, 255)
