"""What vectors of images are worth: scores of simple classifiers on them, and a map.

A vector table has one row an image: ``sample`` (int64), ``split`` (str), ``label`` (int64, -1 for
none), ``class_name`` (str) and ``vector``, a float32 array of length D.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from selfie_pipeline.evaluation.style import LIGHT, sentences, styled

NEIGHBOURS = 20
PENALTY = 1.0
"""The linear probe's inverse strength of L2 on standardised vectors, scikit-learn's C."""
MOST_FITTED = 50_000
"""Training images that the two classifiers are fitted on at most."""
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


def score_vectors(table: pd.DataFrame) -> dict[str, Any] | None:
    """How well simple classifiers do on the vectors: fitted on train, scored once on test.

    Nothing is chosen: k nearest neighbours by the cosine have a fixed k, and a logistic regression
    on the standardised vectors, the linear probe, a fixed penalty.

    Args:
        table: A vector table.

    Returns:
        Accuracies as fractions and how they came about, as plain data. None where train or test
        has no labels, or train has one class alone.
    """
    labeled = table[table["label"] >= 0]
    train, test = (labeled[labeled["split"] == split] for split in ("train", "test"))
    if train["label"].nunique() < 2 or test.empty:  # noqa: PLR2004
        return None
    train = draw(train, MOST_FITTED)
    neighbours = min(NEIGHBOURS, len(train))
    classifiers = {
        "knn": make_pipeline(Normalizer(), KNeighborsClassifier(neighbours)),
        "linear_probe": make_pipeline(
            StandardScaler(), LogisticRegression(C=PENALTY, max_iter=1000)
        ),
    }
    vectors, labels = stack(train), train["label"].to_numpy()
    accuracies = {
        name: float(classifier.fit(vectors, labels).score(stack(test), test["label"].to_numpy()))
        for name, classifier in classifiers.items()
    }
    return {
        "knn": {"accuracy": accuracies["knn"], "neighbours": neighbours, "distance": "cosine"},
        "linear_probe": {"accuracy": accuracies["linear_probe"], "C": PENALTY},
        "train_samples": len(train),
        "test_samples": len(test),
        "classes": int(train["label"].nunique()),
    }


def stack(table: pd.DataFrame) -> NDArray[np.float32]:
    """The vectors of a vector table as one array, (M, D)."""
    return np.stack(table["vector"].to_list())


def draw(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """Rows of a table drawn at random, always the same ones; all where there are no more."""
    return table if len(table) <= most else table.sample(most, random_state=_SEED).sort_index()


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
