"""Named predictions of a classifier for images without labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax


def name_predictions(
    files: Sequence[str], logits: NDArray[np.floating], classes: Sequence[str]
) -> pd.DataFrame:
    """Return the two most likely classes of each image.

    Args:
        files: N file paths; N may be 0.
        logits: (N, K) before the softmax, K at least 2.
        classes: Names of the K classes, by label.

    Returns:
        One row per image, in the given order: ``file``, ``class`` and ``runner_up`` (str),
        ``probability`` and ``runner_up_probability`` (float64). Among equal logits, the first
        class is the predicted one.

    Raises:
        ValueError: The shapes do not match, there is only one class, or a logit is not finite.
    """
    if logits.shape != (len(files), len(classes)) or len(classes) < 2:  # noqa: PLR2004
        raise ValueError(
            f"expected logits of {len(files)} files and {len(classes)} classes, at least two; got "
            f"{logits.shape}"
        )
    if not np.isfinite(logits).all():
        raise ValueError("a logit is not finite")
    top = np.argsort(-logits, axis=1, kind="stable")[:, :2]  # (N, 2)
    names = np.array(classes, dtype=object)[top]  # (N, 2)
    probabilities = np.take_along_axis(softmax(logits.astype(np.float64), axis=1), top, axis=1)
    return pd.DataFrame(
        {
            "file": list(files),
            "class": names[:, 0],
            "probability": probabilities[:, 0],
            "runner_up": names[:, 1],
            "runner_up_probability": probabilities[:, 1],
        }
    )


def select_least_certain(predictions: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Return the predictions with the smallest probability.

    Args:
        predictions: From `name_predictions`.
        limit: Maximum number of rows.

    Returns:
        Rows of the predictions, by ascending probability, then by file.
    """
    return predictions.sort_values(["probability", "file"]).head(limit)
