"""Scores of image embeddings: simple classifiers fitted on the vectors.

A vector table has one row an image: ``sample`` (int64), ``split`` (str), ``label`` (int64, -1 for
none), ``class_name`` (str) and ``vector``, a float32 array of length D.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

NEIGHBOURS = 20
PENALTY = 1.0
"""The linear probe's inverse strength of L2 on standardised vectors, scikit-learn's C."""
MOST_FITTED = 50_000
"""Training images that the two classifiers are fitted on at most."""
_SEED = 0


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
