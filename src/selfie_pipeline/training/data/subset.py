"""The choice of the labeled samples, and of those that the tuning holds out."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from selfie_pipeline.config import TuneConfig, UserError
from selfie_pipeline.training.data.randomness import RandomStream, fold_in


def draw_labeled_subset(samples: pd.DataFrame, labeled_frac: float, seed: int) -> pd.DataFrame:
    """Draw the training samples whose labels finetuning may see; see `labeled_subset`."""
    train = samples[samples["split"] == "train"]
    chosen = labeled_subset(train["label"].to_numpy(), labeled_frac, seed)
    return train.iloc[chosen].reset_index(drop=True)


def labeled_subset(
    labels: NDArray[np.int64], fraction: float, seed: int, parameter: str = "labeled_frac"
) -> NDArray[np.int64]:
    """Choose a share of the training samples, stratified and nested.

    A class with the share p of all samples has the share p of the subset: to within one sample if
    the classes are of similar size, to within (1 + p · (C - 2)) / 2 samples with any C classes, so
    small classes can take some places of a very large one. With the same seed, the subset of a
    smaller fraction is contained in that of a larger one. Both follow from one order of all
    samples: each class is shuffled and spread evenly over it, and the subset is its beginning
    (Webster's method).

    Args:
        labels: (N,), int64: the class of each training sample.
        fraction: Share in (0, 1]; N · fraction samples are chosen, rounded.
        seed: Seed of the shuffle.
        parameter: Name of the parameter that gave the fraction, for the error.

    Returns:
        (M,), int64, ascending: indices into `labels`.

    Raises:
        UserError: There are no samples, or the fraction leaves a class without one.
    """
    if not len(labels):
        raise UserError(
            "there are no labeled training samples, so only pretraining can run: `kedro run "
            "--pipelines=ingest,patch,pretrain`"
        )
    rng = np.random.default_rng(fold_in(seed, RandomStream.SUBSET))
    classes, counts = np.unique(labels, return_counts=True)
    rank = np.empty(len(labels))  # of each sample within its class, in (0, 1)
    for label, count in zip(classes, counts, strict=True):
        rank[labels == label] = (rng.permutation(count) + 0.5) / count
    size = round(len(labels) * fraction)
    order = np.lexsort((rng.random(len(labels)), rank))  # ties between classes are random
    chosen = order[:size]
    missing = np.setdiff1d(classes, labels[chosen])
    if len(missing):
        _, first = np.unique(labels[order], return_index=True)  # place of each class in the order
        least = _round_up((first.max() + 1) / len(labels))
        raise UserError(
            f"{parameter} = {fraction:g} of {len(labels)} training samples leaves "
            f"{len(missing)} of {len(classes)} classes without a label; allowed: about "
            f"{least:g} or more"
        )
    return np.sort(chosen)


def _round_up(fraction: float) -> float:
    """Return the least number of two significant digits that is not less."""
    scale = 10.0 ** (1 - math.floor(math.log10(fraction)))
    return math.ceil(round(fraction * scale, 6)) / scale


def hold_out(samples: pd.DataFrame, tune: TuneConfig) -> pd.DataFrame:
    """Split the training samples into training and validation; the test split is not used.

    Returns:
        The training samples; those held out, a stratified share, have the split "validation".

    Raises:
        UserError: There are too few samples of a class to hold one out.
    """
    from sklearn.model_selection import train_test_split  # noqa: PLC0415  # a second to import

    train = samples[samples["split"] == "train"].copy()
    classes = set(train["label"])
    try:
        kept, held_out = train_test_split(
            train.index,
            test_size=tune.validation_share,
            stratify=train["label"],
            random_state=fold_in(tune.seed, RandomStream.VALIDATION) % 2**32,
        )
        for part, side in ((kept, "training"), (held_out, "validation")):
            if lacking := classes - set(train.loc[part, "label"]):
                raise ValueError(f"{len(lacking)} of {len(classes)} classes have no {side} sample")
    except ValueError as error:
        raise UserError(
            f"tune.validation_share = {tune.validation_share:g} of {len(train)} training samples "
            f"can't be held out ({error}); allowed: a share that leaves every class a sample on "
            "either side"
        ) from None
    train.loc[held_out, "split"] = "validation"
    return train
