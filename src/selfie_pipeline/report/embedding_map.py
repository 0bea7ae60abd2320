"""Map of image embeddings in two dimensions; the figure's label is its alt text."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from selfie_pipeline.evaluation.embedding import stack_vectors, subsample
from selfie_pipeline.printable import escape_controls, shorten_alike
from selfie_pipeline.report.style import LIGHT, join_sentences, styled

_SEED = 0
_PERPLEXITY = 30.0
_MAX_CLASSES_IN_LEGEND = 10
_MAX_CLASSES_NAMED = 30
_MAX_NAME = 24
_MARKERS = "osD^vP*X<>"
_COLOURS = [  # Okabe and Ito's palette, distinct for colour-blind readers, and three more
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31"),
    *("#4b545f", "#7b4fa3", "#a6192e"),
]


@styled
def draw_embedding_map(table: pd.DataFrame, kind: Literal["pca", "tsne"], limit: int) -> Figure:
    """Draw vectors in two dimensions, coloured by class.

    Up to 10 classes have a marker each and a legend; up to 30 have their names on the map.

    Args:
        table: A vector table (see `evaluation.embedding`) of at least one row.
        kind: Principal components, or t-SNE (which preserves neighbourhoods; distances between
            clusters mean little).
        limit: Maximum number of points; images are drawn at random if there are more.
    """
    shown = subsample(table, limit)
    points = _project(stack_vectors(shown), kind)  # (M, 2)
    figure = Figure(figsize=(7.5, 6.5))
    axes = figure.subplots()
    labels = shown["label"].to_numpy()  # (M,)
    names = dict(zip(labels.tolist(), map(escape_controls, shown["class_name"]), strict=True))
    classes = sorted(label for label in names if label >= 0)
    if (labels < 0).any():
        axes.plot(*points[labels < 0].T, ".", color=LIGHT["mask"], ms=3, label="unlabeled")
    _draw_classes(axes, points, labels, [(label, names[label]) for label in classes])
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(visible=False)
    method = {"pca": "PCA", "tsne": "t-SNE"}[kind]
    images = "all" if len(shown) == len(table) else f"{len(shown):,} of"
    images = f"{images} {len(table):,} images"
    axes.set_title(f"Image embeddings, {method}; {images}")
    listed = ", ".join(names[label] for label in classes[:_MAX_CLASSES_IN_LEGEND])
    figure.set_label(
        join_sentences(
            f"A map ({method}) of the embeddings of {images}, by class",
            f"{len(classes)} classes: {listed}" if classes else "No image has a label",
        )
    )
    return figure


def _project(vectors: NDArray[np.float32], kind: Literal["pca", "tsne"]) -> NDArray[np.float32]:
    """Project vectors (M, D) to (M, 2)."""
    if not np.ptp(vectors, axis=0).any():  # there are no directions; t-SNE would crash
        return np.zeros((len(vectors), 2), np.float32)
    points: NDArray[np.float32]
    if kind == "pca":
        points = PCA(2, random_state=_SEED).fit_transform(vectors)
    else:
        perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
        tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=_SEED)
        points = tsne.fit_transform(vectors)
    return points


def _draw_classes(
    axes: Axes,
    points: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: list[tuple[int, str]],
) -> None:
    short = shorten_alike((name for _, name in classes), _MAX_NAME)
    if len(classes) > _MAX_CLASSES_IN_LEGEND:
        labeled = labels >= 0  # (M,)
        x, y = points[labeled].T  # (m,) each
        axes.scatter(x, y, c=labels[labeled], cmap="turbo", s=8, linewidths=0)
        for label, name in classes if len(classes) <= _MAX_CLASSES_NAMED else []:
            x, y = np.median(points[labels == label], axis=0)
            axes.text(x, y, short[name], ha="center", size=8)
        return
    names = [str(line.get_label()) for line in axes.lines]  # "unlabeled", if there are such points
    # There are at least as many markers and colours as classes here.
    for (label, _), marker, colour in zip(classes, _MARKERS, _COLOURS, strict=False):
        class_points = points[labels == label].T  # (2, m)
        axes.plot(*class_points, marker, color=colour, ms=5, mew=0, alpha=0.8)
    if classes:  # the names are given here, because labels that begin with _ are hidden
        names += [short[name] for _, name in classes]
        axes.legend(axes.lines, names, loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
