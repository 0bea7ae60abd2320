"""Scores of a classifier, from its logits."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import log_softmax

Integers = NDArray[np.integer]
Floats = NDArray[np.floating]


def accuracy(labels: Integers, logits: Floats) -> float:
    """Share of samples whose largest logit is the label's.

    Args:
        labels: (N,) integers in [0, K).
        logits: (N, K) floats; probabilities do as well.

    Returns:
        A fraction, 0 to 1. Of equal logits, the first class counts as predicted.

    Raises:
        ValueError: The shapes do not fit, there is no sample, a label is not a class, or a logit
            is not finite.
    """
    _check(labels, logits)
    return float((logits.argmax(axis=1) == labels).mean())


def mean_loss(labels: Integers, logits: Floats) -> float:
    """Mean cross-entropy (negative log-likelihood) of the labels.

    Args:
        labels: (N,) integers in [0, K).
        logits: (N, K) floats before the softmax; log-probabilities do as well.

    Returns:
        Nats a sample, computed in float64; ln K for a network that knows nothing.

    Raises:
        ValueError: As `accuracy`.
    """
    _check(labels, logits)
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def predictions_table(samples: Integers, labels: Integers, logits: Floats) -> pd.DataFrame:
    """What the network said of each sample.

    Args:
        samples: (N,) the samples' ids.
        labels: (N,) integers in [0, K).
        logits: (N, K) floats before the softmax, K at least 2.

    Returns:
        A row a sample, in the order given: ``sample``, ``label``, ``predicted`` (int64),
        ``probability`` (float64, of the predicted class), ``runner_up`` (int64, the class of the
        second largest logit), ``correct`` (bool).

    Raises:
        ValueError: As `accuracy`; or the ids do not fit the labels, or there is only one class.
    """
    _check(labels, logits)
    if samples.shape != labels.shape or logits.shape[1] < 2:  # noqa: PLR2004  # a runner-up
        raise ValueError(
            f"expected an id a label and two classes or more, got ids {samples.shape}, labels "
            f"{labels.shape}, logits {logits.shape}"
        )
    rows = np.arange(len(labels))
    predicted = logits.argmax(axis=1)
    others = logits.astype(np.float64)
    others[rows, predicted] = -np.inf
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    return pd.DataFrame(
        {
            "sample": samples.astype(np.int64),
            "label": labels.astype(np.int64),
            "predicted": predicted.astype(np.int64),
            "probability": np.exp(log_probabilities[rows, predicted]),
            "runner_up": others.argmax(axis=1).astype(np.int64),
            "correct": predicted == labels,
        }
    )


def pack_correct(labels: Integers, logits: Floats) -> str:
    """Which samples' largest logit is the label's, in a few characters.

    Args:
        labels: (N,) integers in [0, K).
        logits: (N, K) floats; probabilities do as well.

    Returns:
        Hex digits, a bit a sample in the order given, the first in the highest place; the last
        byte is filled up with zeros.

    Raises:
        ValueError: As `accuracy`.
    """
    _check(labels, logits)
    return np.packbits(logits.argmax(axis=1) == labels).tobytes().hex()


def unpack_correct(text: str, count: int) -> NDArray[np.bool_]:
    """What `pack_correct` packed.

    Args:
        text: Its hex digits.
        count: Number of samples, N.

    Returns:
        (N,) bool.

    Raises:
        ValueError: These are not the hex digits of so many samples.
    """
    packed = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    if len(packed) != -(-count // 8):
        raise ValueError(f"{len(packed)} bytes are not the answers to {count} samples")
    return np.unpackbits(packed, count=count).astype(np.bool_)


def _check(labels: Integers, logits: Floats) -> None:
    """Refuse what would give a number without meaning."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not labels.size:  # noqa: PLR2004
        raise ValueError(
            f"expected labels (N,) and logits (N, K), got {labels.shape} and {logits.shape}"
        )
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}, but there are "
            f"{logits.shape[1]} classes"
        )
    if not np.isfinite(logits).all():
        raise ValueError("a logit is not finite")
