"""The choice of the labeled samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from selfie_pipeline.config import UserError
from selfie_pipeline.training.data.randomness import RandomStream, fold_in


def labeled_subset(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.int64]:
    """Choose a share of the training samples, stratified and nested.

    Every class has its share, to within one sample. With the same seed, the subset of a smaller
    fraction is contained in that of a larger one. Both follow from one order of all samples: each
    class is shuffled and spread evenly over it, and the subset is its beginning (Webster's method).

    Args:
        labels: (N,), int64: the class of each training sample.
        fraction: Share in (0, 1]; N · fraction samples are chosen, rounded.
        seed: Seed of the shuffle.

    Returns:
        (M,), int64, ascending: indices into `labels`.

    Raises:
        UserError: The fraction leaves a class without a sample.
    """
    rng = np.random.default_rng(fold_in(seed, RandomStream.SUBSET))
    classes, counts = np.unique(labels, return_counts=True)
    rank = np.empty(len(labels))  # of each sample within its class, in (0, 1)
    for label, count in zip(classes, counts, strict=True):
        rank[labels == label] = (rng.permutation(count) + 0.5) / count
    size = round(len(labels) * fraction)
    chosen = np.lexsort((rng.random(len(labels)), rank))[:size]  # ties between classes are random
    missing = np.setdiff1d(classes, labels[chosen])
    if len(missing):
        least = len(classes) / len(labels)
        raise UserError(
            f"labeled_frac = {fraction:g} of {len(labels)} training samples leaves "
            f"{len(missing)} of {len(classes)} classes without a label; allowed: about "
            f"{least:.2g} or more"
        )
    return np.sort(chosen)
