"""Named predictions of a classifier for images without labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax


class TopTwo(NamedTuple):
    """The two most likely classes of N images, the more likely first."""

    labels: NDArray[np.int32]
    """(N, 2)."""
    probabilities: NDArray[np.float64]
    """(N, 2)."""


def find_top_two(logits: NDArray[np.floating]) -> TopTwo:
    """Return the two most likely classes of each image; of equal logits, the first class.

    Args:
        logits: (N, K), finite, before the softmax; N may be 0, and K is at least 2.
    """
    top = np.argsort(-logits, axis=1, kind="stable")[:, :2]  # (N, 2)
    every = softmax(logits.astype(np.float64), axis=1)  # (N, K)
    probabilities = np.take_along_axis(every, top, axis=1)  # (N, 2)
    return TopTwo(top.astype(np.int32), probabilities)


def name_predictions(files: Sequence[str], top: TopTwo, classes: Sequence[str]) -> pd.DataFrame:
    """Return the two most likely classes of each image by their names.

    Args:
        files: N file paths; N may be 0.
        top: Their two most likely classes.
        classes: Names of the classes, by label.

    Returns:
        One row per image, in the given order: ``file``, ``class`` and ``runner_up`` (str),
        ``probability`` and ``runner_up_probability`` (float64).
    """
    names = np.array(classes, dtype=object)[top.labels]  # (N, 2)
    return pd.DataFrame(
        {
            "file": list(files),
            "class": names[:, 0],
            "probability": top.probabilities[:, 0],
            "runner_up": names[:, 1],
            "runner_up_probability": top.probabilities[:, 1],
        }
    )


def select_least_certain(predictions: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Return the predictions of `name_predictions` with the smallest probability.

    Returns:
        Rows of the predictions, by ascending probability, then by file.
    """
    return predictions.sort_values(["probability", "file"]).head(limit)
