"""What a classifier says of images whose class nobody has told, for people to read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax

_COLUMNS = ["file", "class", "probability", "runner_up", "runner_up_probability"]


def named_predictions(
    files: Sequence[str], logits: NDArray[np.floating], classes: Sequence[str]
) -> pd.DataFrame:
    """The two likeliest classes of each image.

    Args:
        files: N places; N may be 0.
        logits: (N, K) before the softmax, K at least 2.
        classes: Names of the K classes, by label.

    Returns:
        A row an image, in the order given: ``file``, ``class`` and ``runner_up`` (str),
        ``probability`` and ``runner_up_probability`` (float64). Of equal logits, the first class
        counts as predicted.

    Raises:
        ValueError: The shapes do not fit, there is only one class, or a logit is not finite.
    """
    if logits.shape != (len(files), len(classes)) or len(classes) < 2:  # noqa: PLR2004
        raise ValueError(
            f"expected logits of {len(files)} files and {len(classes)} classes, two or more; got "
            f"{logits.shape}"
        )
    if not np.isfinite(logits).all():
        raise ValueError("a logit is not finite")
    probabilities = softmax(logits.astype(np.float64), axis=1)  # (N, K)
    best = np.argsort(-logits, axis=1, kind="stable")[:, :2]  # (N, 2)
    names = np.array(classes, dtype=object)[best]  # (N, 2)
    of_best = np.take_along_axis(probabilities, best, axis=1)  # (N, 2)
    parts = (list(files), names[:, 0], of_best[:, 0], names[:, 1], of_best[:, 1])
    return pd.DataFrame(dict(zip(_COLUMNS, parts, strict=True)))


def least_certain(predictions: pd.DataFrame, most: int) -> pd.DataFrame:
    """The images whose class has the smallest probability.

    Args:
        predictions: As `named_predictions` makes it.
        most: How many to give at most.

    Returns:
        Rows of the predictions, the least certain first; of equal ones, the first file.
    """
    return predictions.sort_values(["probability", "file"]).head(most)
