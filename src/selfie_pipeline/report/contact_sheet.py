"""Contact sheet of images with their predictions."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from selfie_pipeline.printable import escape_controls, shorten_alike
from selfie_pipeline.report.image_grid import draw_image_grid
from selfie_pipeline.report.style import shorten_start

CONTACT_SHEET_IMAGES = 24
"""Number of images on a contact sheet, if there are as many."""
_MAX_CLASS_LENGTH = 20
_MAX_FILE_LENGTH = 26
_DESCRIBED = 5
"""Maximum number of images in the alt text."""


def draw_predictions(images: NDArray[np.uint8], predictions: pd.DataFrame, *, title: str) -> Figure:
    """Draw images with their two most likely classes, six per row.

    Args:
        images: (N, H, W, 3), uint8, RGB; N may be 0.
        predictions: Their rows in the same order, from `predictions.name_predictions`.
        title: The beginning of the alt text.
    """
    captions, descriptions = [], []
    rows = [*predictions.itertuples(index=False, name=None)]  # of no columns if there are none
    shown = (str(name) for _, first, _, second, _ in rows for name in (first, second))
    short = shorten_alike(shown, _MAX_CLASS_LENGTH)
    for file, first, probability, second, second_probability in rows:
        classes = [
            (str(first), f"{100 * probability:.0f} %"),
            (str(second), f"{100 * second_probability:.0f} %"),
        ]
        file = escape_controls(str(file))  # noqa: PLW2901
        lines = [f"{short[name]}: {percent}" for name, percent in classes]
        captions.append("\n".join([shorten_start(file, _MAX_FILE_LENGTH), *lines]))
        descriptions.append(f"{file}: " + " or ".join(map(" ".join, classes)))
    if len(descriptions) > _DESCRIBED:
        descriptions[_DESCRIBED:] = [f"And {len(descriptions) - _DESCRIBED} more"]
    return draw_image_grid(
        images,
        captions,
        title=title,
        descriptions=descriptions,
        columns=6,
        width_inches=1.9,
        font_size=7,
        placeholder="no images",
    )
