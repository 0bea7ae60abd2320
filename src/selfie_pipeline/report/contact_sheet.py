"""A sheet of images with what a classifier says of them; its label is its description in words."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from selfie_pipeline.report.style import sentences, styled

_COLUMNS = 6
_LETTERS = 20
_TOLD = 5


@styled
def contact_sheet(images: NDArray[np.uint8], predictions: pd.DataFrame) -> Figure:
    """Show images with their two likeliest classes.

    Args:
        images: (N, H, W, 3), uint8, RGB; N may be 0.
        predictions: Their rows in the same order, as `predictions.least_certain` gives them.

    Returns:
        A grid, six images wide.

    Raises:
        ValueError: There is not one image for each prediction.
    """
    if images.shape[:1] != (len(predictions),):
        raise ValueError(f"{len(images)} images do not fit {len(predictions)} predictions")
    rows = max(1, math.ceil(len(images) / _COLUMNS))
    figure = Figure(figsize=(1.9 * _COLUMNS, 2.4 * rows))
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    told = []
    values = predictions.itertuples(index=False, name=None)
    shown = zip(images, values, strict=True)
    # The last row may have panels that stay empty.
    for axes, (image, (file, first, sure, second, less_sure)) in zip(panels, shown, strict=False):
        answers = [(str(first), f"{100 * sure:.0f} %"), (str(second), f"{100 * less_sure:.0f} %")]
        lines = [f"{_short(name)}: {percent}" for name, percent in answers]
        axes.imshow(image)
        axes.set_title("\n".join([_end(str(file)), *lines]), fontsize=7, fontweight="normal")
        told.append(f"{file}: " + " or ".join(map(" ".join, answers)))
    if not told:
        panels[0].text(0, 0.5, "there is no image", transform=panels[0].transAxes)
        told = ["There is none"]
    more = [f"And {len(told) - _TOLD} more"] if len(told) > _TOLD else []
    head = "Images that the classifier is least certain of, the least certain first"
    figure.set_label(sentences(head, *told[:_TOLD], *more))
    return figure


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…"


def _end(place: str) -> str:
    """Of a file's place what tells most: the end."""
    return place if len(place) <= _LETTERS + 6 else "…" + place[-(_LETTERS + 5) :]
