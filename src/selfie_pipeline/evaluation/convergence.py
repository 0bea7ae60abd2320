"""Signs that a training has converged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

FITTED = 0.98
"""Training accuracy from which on a finetuning has learned its labels."""
FLAT = 0.05
"""Largest fall of the loss, relative to itself, that counts as none."""
_PARTS = 5


def measure_convergence(history: pd.DataFrame) -> dict[str, float | None]:
    """Measure how a training ended.

    Args:
        history: One row a log interval: ``step``, ``loss``, ``accuracy``; see `state.HistoryRow`.

    Returns:
        ``loss``: mean loss over the last fifth of the steps, nats; ``loss_before``: over the fifth
        before it, None if no row ends in it; ``loss_first``: of the first row; ``accuracy``: of the
        augmented training batches over the last fifth, a fraction.
    """
    part = (_PARTS * history["step"] - 1) // history["step"].max()  # in which a row ends
    steps = history["step"].diff().fillna(history["step"])  # that a row is the mean of
    last, before = (steps.where(part == number, 0) for number in (_PARTS - 1, _PARTS - 2))
    return {
        "loss": float(np.average(history["loss"], weights=last)),
        "loss_before": float(np.average(history["loss"], weights=before)) if any(before) else None,
        "loss_first": float(history["loss"].iloc[0]),
        "accuracy": float(np.average(history["accuracy"], weights=last)),
    }


def has_converged(ending: Mapping[str, Any]) -> bool:
    """Return whether a training, from its `measure_convergence`, needs no more steps.

    It has learned its labels, or its loss has fallen and no longer does; a loss that never fell is
    that of a training that has learned nothing. These are signs of the training alone: only a
    longer one can tell whether the test accuracy would still rise.

    Args:
        ending: From `measure_convergence`; results of earlier commits have no ``loss_first``.
    """
    loss, before, first = ending["loss"], ending["loss_before"], ending.get("loss_first")
    is_flat = before is not None and loss >= (1 - FLAT) * before
    has_fallen = first is None or loss < (1 - FLAT) * first
    return (is_flat and has_fallen) or bool(ending["accuracy"] >= FITTED)
