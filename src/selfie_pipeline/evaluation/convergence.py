"""Signs that a training has converged."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FITTED = 0.98
"""Training accuracy from which on a finetuning has learned its labels."""
FLAT = 0.05
"""Largest change of the loss from one fifth of the steps to the next, as a fraction, that counts as
none."""
_PARTS = 5


def measure_convergence(
    history: pd.DataFrame, labels: NDArray[np.int64]
) -> dict[str, float | None]:
    """Measure how a training ended.

    Args:
        history: One row a log interval: ``step``, ``loss``, ``accuracy``; see `state.HistoryRow`.
            The means are coarser than fifths if an interval is longer than a fifth.
        labels: (M,), int64: the classes of the labeled samples.

    Returns:
        ``loss``: mean loss over the last fifth of the steps, nats; ``loss_before`` and
        ``loss_middle``: over the fourth and third fifths, None if no row ends in them;
        ``loss_first``: of the first row; ``loss_chance``: of always predicting how frequent the
        classes are, which needs no image; ``accuracy``: of the augmented training batches over the
        last fifth, a fraction.
    """
    shares = np.unique_counts(labels).counts / len(labels)  # of the classes: (K,)
    part = (_PARTS * history["step"] - 1) // history["step"].max()  # in which a row ends
    steps = history["step"].diff().fillna(history["step"])  # that a row is the mean of

    def average(column: str, number: int) -> float | None:
        weights = steps.where(part == number, 0)
        return float(np.average(history[column], weights=weights)) if any(weights) else None

    return {
        "loss": average("loss", _PARTS - 1),
        "loss_before": average("loss", _PARTS - 2),
        "loss_middle": average("loss", _PARTS - 3),
        "loss_first": float(history["loss"].iloc[0]),
        "loss_chance": float(-(shares * np.log(shares)).sum()),  # their entropy
        "accuracy": average("accuracy", _PARTS - 1),
    }


def has_converged(ending: Mapping[str, Any]) -> bool:
    """Return whether a training has converged, from its `measure_convergence`.

    It has learned its labels, or its loss has fallen below that of the first steps and of chance,
    and no longer changed over the last three fifths of the steps. Over the last fifth alone, the
    loss of most trainings is flat, as the learning rate has decayed. These are signs of the
    training alone: only a longer one can tell whether the test accuracy would still rise.

    Args:
        ending: From `measure_convergence`; results of earlier commits may lack ``loss_first``,
            ``loss_chance`` and ``loss_middle``.
    """
    losses = [ending.get("loss_middle"), ending["loss_before"], ending["loss"]]
    known = [loss for loss in losses if loss is not None]
    is_flat = ending["loss_before"] is not None and all(
        (1 - FLAT) * earlier <= later <= (1 + FLAT) * earlier for earlier, later in pairwise(known)
    )
    starts = [ending.get("loss_first"), ending.get("loss_chance")]
    has_fallen = all(start is None or ending["loss"] < (1 - FLAT) * start for start in starts)
    return (is_flat and has_fallen) or bool(ending["accuracy"] >= FITTED)
