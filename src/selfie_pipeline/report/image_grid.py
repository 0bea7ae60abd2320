"""Figures that show a grid of captioned images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray


def draw_image_grid(
    images: NDArray[np.uint8],
    captions: Sequence[str],
    *,
    columns: int,
    panel_inches: tuple[float, float],
    font_size: float,
    placeholder: str,
) -> Figure:
    """Draw images in rows, each below its caption.

    Args:
        images: (N, H, W, 3) uint8, RGB; N may be 0.
        captions: N captions.
        columns: Number of images per row.
        panel_inches: Width and height of one image with its caption.
        font_size: Font size of the captions, points.
        placeholder: Text to show if there are no images.
    """
    rows = max(1, math.ceil(len(images) / columns))
    figure = Figure(figsize=(panel_inches[0] * columns, panel_inches[1] * rows))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    pictures = list(zip(images, captions, strict=True))
    # Panels at the end of the last row may stay empty.
    for axes, (image, caption) in zip(panels, pictures, strict=False):
        axes.imshow(image)
        axes.set_title(caption, fontsize=font_size, fontweight="normal")
    if not captions:
        panels[0].text(0, 0.5, placeholder, transform=panels[0].transAxes)
    return figure
