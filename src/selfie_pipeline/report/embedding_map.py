"""A map of image embeddings in two dimensions."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from selfie_pipeline.evaluation.embedding import draw, stack
from selfie_pipeline.report.style import LIGHT, sentences, styled

_SEED = 0
_PERPLEXITY = 30.0
_MARKED = 10
"""So many classes have a marker and a colour each, and a legend."""
_NAMED = 30
"""So many classes have their names on the map."""
_MARKERS = "osD^vP*X<>"
_COLOURS = [  # Okabe and Ito's, which colour-blind readers tell apart, and three more
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31"),
    *("#4b545f", "#7b4fa3", "#a6192e"),
]


@styled
def embedding_map(table: pd.DataFrame, kind: Literal["pca", "tsne"], most: int) -> Figure:
    """Vectors in two dimensions, coloured by class.

    Args:
        table: A vector table, of 3 rows or more.
        kind: Principal components, or t-SNE (which keeps neighbours together; distances between
            groups mean little).
        most: Points on the map; where there are more images, so many are drawn at random.

    Returns:
        A figure. Up to 10 classes have a marker each, and a legend; up to 30 have their names on
        the map.
    """
    drawn = draw(table, most)
    points = _project(stack(drawn), kind)  # (M, 2)
    figure = Figure(figsize=(7.5, 6.5))
    axes = figure.subplots()
    labels = drawn["label"].to_numpy()
    names = dict(zip(labels.tolist(), drawn["class_name"].tolist(), strict=True))
    classes = sorted(label for label in names if label >= 0)
    if (labels < 0).any():
        axes.plot(*points[labels < 0].T, ".", color=LIGHT["mask"], ms=3, label="without a label")
    _draw_classes(axes, points, labels, [(label, names[label]) for label in classes])
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(visible=False)
    method = {"pca": "PCA", "tsne": "t-SNE"}[kind]
    part = "all" if len(drawn) == len(table) else f"{len(drawn):,} of"
    axes.set_title(f"The images' vectors, {method}; {part} {len(table):,} images")
    figure.set_label(
        sentences(
            f"A map ({method}) of the vectors of {part} {len(table):,} images, by class",
            f"{len(classes)} classes: " + ", ".join(names[label] for label in classes[:_MARKED])
            if classes
            else "None has a label",
        )
    )
    return figure


def _project(vectors: NDArray[np.float32], kind: Literal["pca", "tsne"]) -> NDArray[np.float32]:
    """(M, D) to (M, 2)."""
    if kind == "pca":
        reduced: NDArray[np.float32] = PCA(2, random_state=_SEED).fit_transform(vectors)
        return reduced
    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=_SEED)
    placed: NDArray[np.float32] = tsne.fit_transform(vectors)
    return placed


def _draw_classes(
    axes: Axes,
    points: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: list[tuple[int, str]],
) -> None:
    if len(classes) > _MARKED:
        known = labels >= 0
        across, along = points[known].T  # (m,) each
        axes.scatter(across, along, c=labels[known], cmap="turbo", s=8, linewidths=0)
        for label, name in classes if len(classes) <= _NAMED else []:
            x, y = np.median(points[labels == label], axis=0)
            axes.text(x, y, name, ha="center", size=8)
        return
    # There are at least as many markers and colours as classes that come here.
    for (label, name), marker, colour in zip(classes, _MARKERS, _COLOURS, strict=False):
        of_class = points[labels == label].T  # (2, m)
        axes.plot(*of_class, marker, color=colour, ms=5, mew=0, alpha=0.8, label=name)
    if classes:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)
