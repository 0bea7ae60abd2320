"""Figures that show a grid of captioned images; the figure's label is its alt text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from selfie_pipeline.report.style import join_sentences, styled

_MARGIN = 0.08
"""Width of the margin around an image and its caption, inches."""
_LINE_SPACING = 1.2
"""Height of a line of a caption, in font sizes."""


@styled
def draw_image_grid(
    images: NDArray[np.uint8],
    captions: Sequence[str],
    *,
    title: str,
    descriptions: Sequence[str],
    columns: int,
    width_inches: float,
    font_size: float,
    placeholder: str,
) -> Figure:
    """Draw images in rows, each below its caption.

    Args:
        images: (N, H, W, 3) uint8, RGB; N may be 0.
        captions: N captions.
        title: The beginning of the alt text.
        descriptions: The other sentences of the alt text; none if there are no images.
        columns: Number of images per row.
        width_inches: Width of one image with its margins.
        font_size: Font size of the captions, points.
        placeholder: Text to show if there are no images.
    """
    rows = max(1, math.ceil(len(images) / columns))
    lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    above = 2 * _MARGIN + lines * _LINE_SPACING * font_size / 72
    image_width = width_inches - 2 * _MARGIN
    image_height = image_width * images.shape[1] / images.shape[2]
    height_inches = above + image_height + _MARGIN
    size = (width_inches * columns, height_inches * rows)
    figure = Figure(figsize=size)
    figure.set_label(join_sentences(title, *(descriptions or ["There are none"])))
    figure.set_layout_engine("none")
    # One Axes for all images, in inches: one for each, with an automatic layout, would take half a
    # second for 16 images instead of a tenth.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(number, columns)
        left, upper = column * width_inches + _MARGIN, row * height_inches
        top = upper + above
        axes.imshow(image, extent=(left, left + image_width, top + image_height, top))
        axes.text(
            left,
            upper + _MARGIN,
            caption,
            fontsize=font_size,
            linespacing=_LINE_SPACING,
            verticalalignment="top",
        )
    if not captions:
        axes.text(_MARGIN, height_inches / 2, placeholder)
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="auto")
    return figure
