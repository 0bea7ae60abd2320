"""Scores of image embeddings, from simple classifiers fitted on the vectors.

A vector table has one row per image: ``sample`` (int64), ``split`` (str), ``label`` (int64, -1 for
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

_NEIGHBOURS = 20
_TEMPERATURE = 0.07
"""Of the neighbours' votes, exp(cosine / temperature) each, as in Wu et al., "Unsupervised Feature
Learning via Non-Parametric Instance Discrimination" (2018). With equal votes, the other classes
would outvote one that has fewer than `_NEIGHBOURS` images."""
_INVERSE_L2 = 1.0
"""The linear probe's inverse regularisation strength, scikit-learn's ``C``."""
_MAX_TRAIN_SAMPLES = 50_000
_SEED = 0


def score_vectors(table: pd.DataFrame) -> dict[str, Any] | None:
    """Fit simple classifiers on the training vectors and score them once on the test vectors.

    Nothing is tuned: k nearest neighbours by cosine distance have a fixed k and votes weighted by
    similarity, and the linear probe, a logistic regression on standardised vectors, has a fixed
    penalty.

    Args:
        table: A vector table. At most 50,000 training images are used.

    Returns:
        Accuracies as fractions, with the classifiers' settings, as plain data. None if train or
        test has no labels, or if train has only one class.
    """
    labeled = table[table["label"] >= 0]
    train, test = (labeled[labeled["split"] == split] for split in ("train", "test"))
    if train["label"].nunique() < 2 or test.empty:  # noqa: PLR2004
        return None
    train = subsample(train, _MAX_TRAIN_SAMPLES)
    neighbours = min(_NEIGHBOURS, len(train))
    classifiers = {
        "knn": make_pipeline(Normalizer(), KNeighborsClassifier(neighbours, weights=_vote)),
        "linear_probe": make_pipeline(
            StandardScaler(), LogisticRegression(C=_INVERSE_L2, max_iter=1000)
        ),
    }
    (vectors, labels), test_set = (
        (stack_vectors(rows), rows["label"].to_numpy()) for rows in (train, test)
    )
    accuracies = {
        name: float(classifier.fit(vectors, labels).score(*test_set))
        for name, classifier in classifiers.items()
    }
    return {
        "knn": {
            "accuracy": accuracies["knn"],
            "neighbours": neighbours,
            "distance": "cosine",
            "temperature": _TEMPERATURE,
        },
        "linear_probe": {"accuracy": accuracies["linear_probe"], "C": _INVERSE_L2},
        "train_samples": len(train),
        "test_samples": len(test),
        "classes": int(train["label"].nunique()),
    }


def _vote(distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the weights of neighbours at these Euclidean distances of vectors of length 1."""
    cosines = 1 - np.square(distances) / 2
    votes: NDArray[np.float32] = np.exp(cosines / _TEMPERATURE)
    return votes


def stack_vectors(table: pd.DataFrame) -> NDArray[np.float32]:
    """Return the vectors of a vector table as one array, (M, D)."""
    return np.stack(table["vector"].to_list())


def subsample(table: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Return at most `limit` rows, drawn at random with a fixed seed."""
    return table if len(table) <= limit else table.sample(limit, random_state=_SEED).sort_index()
