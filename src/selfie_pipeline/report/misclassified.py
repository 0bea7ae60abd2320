"""Figures of a classifier's errors; each figure's label is its alt text.

Predictions are from `scores.build_predictions_table`; classes are named in the order of labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from selfie_pipeline.printable import shorten_alike
from selfie_pipeline.report.image_grid import draw_image_grid
from selfie_pipeline.report.style import LIGHT, join_sentences, styled

_MAX_MATRIX_CLASSES = 30
"""Maximum number of classes whose matrix entries are large enough to read."""
_MAX_PAIRS = 20
_MAX_NAME = 22
_MAX_OPACITY = 0.55
"""Opacity at which the number in a matrix entry is still legible."""
_DESCRIBED = 5
"""Maximum number of a matrix's pairs in the alt text."""


def select_worst_errors(predictions: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Return the misclassified samples with the highest predicted probability.

    Returns:
        Rows of the predictions, by descending probability, then by sample id.
    """
    wrong = predictions[~predictions["correct"]]
    return wrong.sort_values(["probability", "sample"], ascending=[False, True]).head(limit)


@styled
def draw_confusion_matrix(predictions: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Draw the confusion matrix, or the most frequent confusions of many classes.

    Returns:
        For up to 30 classes a matrix of sample counts, with true classes as rows and predicted
        classes as columns; for more, a table of the most frequently confused pairs.
    """
    true, predicted = predictions["label"], predictions["predicted"]
    wrong = predictions[true != predicted].groupby(["label", "predicted"]).size()
    most = wrong.sort_values(ascending=False, kind="stable").head(_MAX_PAIRS)
    pairs = list(most.reset_index().itertuples(index=False, name=None))
    if len(classes) > _MAX_MATRIX_CLASSES:
        figure = _draw_pairs(pairs, np.bincount(true), classes)
    else:
        matrix = confusion_matrix(true, predicted, labels=range(len(classes)))  # (K, K)
        figure, pairs = _draw_matrix(matrix, classes), pairs[:_DESCRIBED]
    confusions = (
        f"{classes[label]} is predicted as {classes[other]} "
        + ("once" if count == 1 else f"{count:,} times")
        for label, other, count in pairs
    )
    correct = f"{(true == predicted).sum():,} of {len(true):,} correct"
    figure.set_label(
        join_sentences(f"Confusion of {len(classes):,} classes: {correct}", *confusions)
    )
    return figure


def draw_sample_errors(
    images: NDArray[np.uint8], predictions: pd.DataFrame, classes: Sequence[str]
) -> Figure:
    """Draw misclassified images with their true and predicted classes, four per row.

    Args:
        images: (N, H, W, 3) uint8, RGB; N may be 0.
        predictions: Their rows in the same order, from `select_worst_errors`.
        classes: Names of the K classes, by label.
    """
    captions, descriptions = [], []
    rows = predictions[["label", "predicted", "probability"]].itertuples(index=False, name=None)
    shown = [classes[label] for label in {*predictions["label"], *predictions["predicted"]}]
    true_names, wrong_names = shorten_alike(shown, 20), shorten_alike(shown, 14)
    for label, predicted, probability in rows:
        true, wrong, percent = classes[label], classes[predicted], f"{100 * probability:.0f} %"
        captions.append(
            f"true: {true_names[true]}\n✗ predicted: {wrong_names[wrong]}\nprobability: {percent}"
        )
        descriptions.append(f"{true}, predicted as {wrong}, probability {percent}")
    return draw_image_grid(
        images,
        captions,
        title="Misclassified images, the highest predicted probability first",
        descriptions=descriptions,
        columns=4,
        width_inches=2.1,
        font_size=8,
        placeholder="no image is misclassified",
    )


def _draw_matrix(counts: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Draw the matrix with rectangles, because their colours, unlike pixels, follow a dark page."""
    short = shorten_alike(classes, _MAX_NAME)
    names = [short[name] for name in classes]
    entry, longest = max(2.8 / len(classes), 0.42), max(map(len, names))  # inches, characters
    side = entry * len(classes) + 0.08 * longest + 0.6
    figure = Figure(figsize=(side, side + 0.3))
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # (K, K)
    wrong = shares - np.diag(np.diag(shares))  # (K, K)
    for (true, predicted), count in np.ndenumerate(counts):
        if not count:
            continue
        correct = true == predicted
        # Errors are shaded relative to the most frequent one, or they would be too pale.
        strength = shares[true, predicted] / (1 if correct else wrong.max())
        axes.add_patch(
            Rectangle(
                (predicted, true),
                1,
                1,
                facecolor=LIGHT["correct" if correct else "wrong"],
                alpha=_MAX_OPACITY * strength,
                linewidth=0,
            )
        )
        axes.text(
            predicted + 0.5,
            true + 0.5,
            f"{count}",
            ha="center",
            va="center",
            size=9 if count < 1000 else 7,  # noqa: PLR2004  # four digits fill an entry
            weight="bold" if correct else "normal",
        )
    axes.set(xlim=(0, len(classes)), ylim=(len(classes), 0), aspect="equal")
    ticks = np.arange(len(classes)) + 0.5
    axes.set_xticks(ticks, names, rotation=0 if 0.1 * longest < entry else 90)
    axes.set_yticks(ticks, names)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.set(xlabel="predicted class", ylabel="true class")
    # Over the names, too, so that it fits above few and narrow entries.
    figure.suptitle("Test images (bold: correct)", x=0.02, ha="left", size=11, weight="bold")
    return figure


def _draw_pairs(
    pairs: Sequence[tuple[int, int, int]], totals: NDArray[np.int64], classes: Sequence[str]
) -> Figure:
    """Draw a table of confused pairs of classes; `totals` are the samples of each true class."""
    figure = Figure(figsize=(8, 0.6 + 0.32 * (max(1, len(pairs)) + 1)))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_title("Most frequently confused classes")
    names = shorten_alike((classes[label] for pair in pairs for label in pair[:2]), 32)
    rows = [
        (names[classes[true]], names[classes[predicted]], f"{count:,} of {totals[true]:,}")
        for true, predicted, count in pairs
    ] or [("none", "", "")]
    axes.set(xlim=(0, 1), ylim=(len(rows) + 1, 0))
    for row, texts in enumerate([("True class", "Predicted class", "Test images"), *rows]):
        for x, text in zip((0, 0.42, 0.84), texts, strict=True):
            axes.text(x, row + 0.5, text, va="center", size=9, weight="normal" if row else "bold")
        axes.plot([0, 1], [row + 1, row + 1], color=LIGHT["faint"], linewidth=0.8)
    return figure
