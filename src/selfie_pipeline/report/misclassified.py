"""Figures of what a classifier gets wrong. Each one's label is its description in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from selfie_pipeline.report.style import LIGHT, sentences, styled

_MOST_CLASSES = 30
"""More cells than these would be too small to read."""
_PAIRS = 20
_STRONGEST = 0.55
"""Opacity of the fullest cell: the number in it must stay legible."""
_TOLD = 5
"""Of a matrix, so many pairs are told in words."""


def worst_errors(predictions: pd.DataFrame, most: int) -> pd.DataFrame:
    """The samples that the classifier gets wrong, those it is surest of first.

    Args:
        predictions: As `scores.predictions_table` makes it.
        most: How many to give at most.

    Returns:
        Rows of the predictions; of equal probabilities, the smaller sample id first.
    """
    wrong = predictions[~predictions["correct"]]
    return wrong.sort_values(["probability", "sample"], ascending=[False, True]).head(most)


@styled
def confusion_matrix(predictions: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Which classes are taken for which.

    Args:
        predictions: As `scores.predictions_table` makes it.
        classes: Names of the K classes, by label.

    Returns:
        For up to 30 classes a matrix, a row a true class and a column a predicted one, with the
        number of samples in each cell; for more, a table of the pairs that are confused most.

    Raises:
        ValueError: A label or a prediction is not a class, or there is no prediction.
    """
    counts = _count(predictions, len(classes))  # (K, K)
    pairs = _confused(counts)
    if len(classes) > _MOST_CLASSES:
        figure = _draw_pairs(counts, pairs, classes)
    else:
        figure, pairs = _draw_matrix(counts, classes), pairs[:_TOLD]
    right = int(np.trace(counts))
    told = (
        f"{classes[true]} is taken for {classes[said]} {counts[true, said]:,} times"
        for true, said in pairs
    )
    figure.set_label(
        sentences(
            f"Confusion of {len(classes):,} classes: {right:,} of {counts.sum():,} right", *told
        )
    )
    return figure


@styled
def sample_errors(
    images: NDArray[np.uint8], predictions: pd.DataFrame, classes: Sequence[str]
) -> Figure:
    """Images that the classifier gets wrong, with what they show and what it said.

    Args:
        images: (N, H, W, 3) uint8, RGB; N may be 0.
        predictions: Their rows in the same order, as `worst_errors` gives them.
        classes: Names of the K classes, by label.

    Returns:
        A grid, four images wide.

    Raises:
        ValueError: There is not one image for each prediction.
    """
    if images.shape[:1] != (len(predictions),):
        raise ValueError(f"{len(images)} images do not fit {len(predictions)} predictions")
    columns = 4
    rows = max(1, math.ceil(len(images) / columns))
    figure = Figure(figsize=(2.1 * columns, 2.7 * rows))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    told = []
    labels, answers = (predictions[name].to_numpy(np.int64) for name in ("label", "predicted"))
    sure = predictions["probability"].to_numpy(np.float64)
    errors = zip(images, labels, answers, sure, strict=True)
    # The last row may have panels that stay empty.
    for axes, (image, label, answer, probability) in zip(panels, errors, strict=False):
        true, said, percent = classes[label], classes[answer], f"{100 * probability:.0f} %"
        axes.imshow(image)
        title = f"is: {_short(true, 20)}\n✗ said: {_short(said, 16)}\n{percent} sure"
        axes.set_title(title, fontsize=9, fontweight="normal")
        told.append(f"{true}, taken for {said}, {percent} sure")
    if not told:
        panels[0].text(0, 0.5, "no image is classified wrongly", transform=panels[0].transAxes)
        told = ["There is none"]
    figure.set_label(sentences("Images classified wrongly, the surest first", *told))
    return figure


def _count(predictions: pd.DataFrame, classes: int) -> NDArray[np.int64]:
    """(K, K): samples of each true class (row) that were said to be of each class (column)."""
    pairs = predictions[["label", "predicted"]].to_numpy(np.int64)  # (N, 2)
    if not len(pairs) or pairs.min() < 0 or pairs.max() >= classes:
        raise ValueError(f"predictions of {classes} classes expected, got {pairs.tolist()[:10]}")
    return np.bincount(pairs @ [classes, 1], minlength=classes**2).reshape(classes, classes)


def _confused(counts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Pairs of a true class and a wrong one, the most frequent first, as many as are shown."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    pairs = (divmod(int(place), len(counts)) for place in order)
    return [(true, said) for true, said in pairs if wrong[true, said]]


def _draw_matrix(counts: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Cells as rectangles, in colours that follow a dark page, unlike pixels."""
    side = max(4.5, 0.42 * len(classes) + 1.8)
    figure = Figure(figsize=(side, side))
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # (K, K)
    wrong = shares - np.diag(np.diag(shares))
    for (true, said), count in np.ndenumerate(counts):
        if not count:
            continue
        right = true == said
        # Errors are shaded by the most frequent one: beside the right answers all would be pale.
        full = shares[true, said] / (1 if right else wrong.max())
        colour = LIGHT["right" if right else "wrong"]
        axes.add_patch(
            Rectangle((said, true), 1, 1, facecolor=colour, alpha=_STRONGEST * full, linewidth=0)
        )
        axes.text(
            said + 0.5,
            true + 0.5,
            f"{count}",
            ha="center",
            va="center",
            size=9 if count < 1000 else 7,  # noqa: PLR2004  # four digits fill a cell
            weight="bold" if right else "normal",
        )
    axes.set(xlim=(0, len(classes)), ylim=(len(classes), 0), aspect="equal")
    places, names = np.arange(len(classes)) + 0.5, [_short(name, 18) for name in classes]
    upright = max(map(len, names)) <= 2  # noqa: PLR2004
    axes.set_xticks(places, names, rotation=0 if upright else 90)
    axes.set_yticks(places, names)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title("Test images; on the diagonal (bold) the right ones")
    return figure


def _draw_pairs(
    counts: NDArray[np.int64], pairs: Sequence[tuple[int, int]], classes: Sequence[str]
) -> Figure:
    figure = Figure(figsize=(8, 0.6 + 0.32 * (max(1, len(pairs)) + 1)))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_title("The classes confused most")
    totals = counts.sum(axis=1)  # (K,)
    cells = [
        [
            _short(classes[true], 32),
            _short(classes[said], 32),
            f"{counts[true, said]:,} of {totals[true]:,}",
        ]
        for true, said in pairs
    ] or [["none", "", ""]]
    _table(axes, [["True class", "Taken for", "Test images"], *cells])
    return figure


def _table(axes: Axes, lines: Sequence[Sequence[str]]) -> None:
    """Text in columns, the first line a head."""
    axes.set(xlim=(0, 1), ylim=(len(lines), 0))
    for row, line in enumerate(lines):
        for place, cell in zip((0, 0.42, 0.84), line, strict=True):
            weight = "normal" if row else "bold"
            axes.text(place, row + 0.5, cell, va="center", size=9, weight=weight)
        axes.plot([0, 1], [row + 1, row + 1], color=LIGHT["faint"], linewidth=0.8)


def _short(name: str, most: int) -> str:
    """A name that fits."""
    return name if len(name) <= most else name[: most - 1] + "…"
