"""Which labels finetuning may see."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from selfie_pipeline.config import UserError
from selfie_pipeline.training.data.randomness import Purpose, fold_in


def labeled_subset(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.int64]:
    """Choose a share of the training samples, stratified and nested.

    Every class has its share, to within one sample; and of the same seed, a smaller fraction's
    subset lies within a larger one's. Both follow from one order of all samples: each class is
    shuffled and spread evenly over it, and the subset is its beginning (Webster's method).

    Args:
        labels: (N,), int64: the class of each training sample.
        fraction: In (0, 1]; N · fraction samples are chosen, rounded.
        seed: Of the shuffle.

    Returns:
        (M,), int64, ascending: places in `labels`.

    Raises:
        UserError: The fraction leaves a class without a sample.
    """
    random = np.random.default_rng(fold_in(seed, Purpose.SUBSET))
    classes, counts = np.unique(labels, return_counts=True)
    spread = np.empty(len(labels))
    for label, count in zip(classes, counts, strict=True):
        spread[labels == label] = (random.permutation(count) + 0.5) / count
    size = round(len(labels) * fraction)
    chosen = np.lexsort((random.random(len(labels)), spread))[:size]  # ties between classes: chance
    missing = np.setdiff1d(classes, labels[chosen])
    if len(missing):
        least = len(classes) / len(labels)
        raise UserError(
            f"labeled_frac = {fraction:g} of {len(labels)} training samples leaves "
            f"{len(missing)} of {len(classes)} classes without a label; allowed: about "
            f"{least:.2g} or more"
        )
    return np.sort(chosen)
