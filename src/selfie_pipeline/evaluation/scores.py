"""Scores of a classifier, computed from its logits."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import log_softmax

from selfie_pipeline.evaluation.predictions import find_top_two

Integers = NDArray[np.integer]
Floats = NDArray[np.floating]


def mean_loss(labels: Integers, logits: Floats) -> float:
    """Return the mean cross-entropy (negative log-likelihood) of the labels.

    Args:
        labels: (N,) integers in [0, K).
        logits: (N, K) floats before the softmax; log-probabilities work as well.

    Returns:
        Nats per sample, computed in float64; ln K for uniform predictions.
    """
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)  # (N, K)
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def build_predictions_table(samples: Integers, labels: Integers, logits: Floats) -> pd.DataFrame:
    """Tabulate the network's prediction for each sample.

    Args:
        samples: (N,) the samples' ids.
        labels: (N,) integers in [0, K).
        logits: (N, K) floats before the softmax, K at least 2.

    Returns:
        One row per sample, in the given order: ``sample``, ``label``, ``predicted`` (int64),
        ``probability`` (float64, of the predicted class), ``runner_up`` (int64, the class of the
        second largest logit), ``correct`` (bool).
    """
    top = find_top_two(logits)
    predicted, runner_up = top.labels.astype(np.int64).T  # (N,) each
    return pd.DataFrame(
        {
            "sample": samples.astype(np.int64),
            "label": labels.astype(np.int64),
            "predicted": predicted,
            "probability": top.probabilities[:, 0],
            "runner_up": runner_up,
            "correct": predicted == labels,
        }
    )


def pack_correct(correct: NDArray[np.bool_]) -> str:
    """Encode which predictions are correct, (N,) bool, as a short string.

    Returns:
        Hex digits with one bit per sample, the first sample in the most significant bit; the last
        byte is padded with zeros.
    """
    return np.packbits(correct).tobytes().hex()


def unpack_correct(packed: str, count: int) -> NDArray[np.bool_]:
    """Decode the output of `pack_correct`.

    Args:
        packed: Hex digits.
        count: Number of samples, N.

    Returns:
        (N,) bool.
    """
    octets = np.frombuffer(bytes.fromhex(packed), dtype=np.uint8)
    return np.unpackbits(octets, count=count).astype(np.bool_)
