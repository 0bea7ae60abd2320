"""The table of samples: building, counting and checking it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from selfie_pipeline.config import UserError
from selfie_pipeline.printable import escape_controls, is_printable, list_first

SPLITS = ("train", "test", "unlabeled")
SAMPLE_COLUMNS = ("split", "label", "class_name", "place")
"""Columns of every table of samples, besides its index."""

TEST_SHARE = 0.2
"""Share of each class that `draw_test_split` draws."""
_SPLIT_SEED = 0


def build_sample_table(
    splits: Sequence[str], labels: NDArray[np.int64], places: Sequence[str], classes: Sequence[str]
) -> pd.DataFrame:
    """Build the table of samples.

    Args:
        splits: The split of each of the N samples, one of `SPLITS`.
        labels: Indices into `classes`, int64 of shape (N,); -1 for unlabeled samples.
        places: Human-readable location of each sample in its source: "data_batch_3[17]".
        classes: Class names.

    Returns:
        One row per sample, with the index 0 to N - 1 named "sample" (the row in the patch grids)
        and the columns split (str), label (int64, -1 for none), class_name (str, empty for none)
        and place (str).
    """
    table = pd.DataFrame({"split": splits, "label": labels, "place": places})
    table.insert(2, "class_name", table["label"].map({-1: "", **dict(enumerate(classes))}))
    return table.rename_axis(index="sample")


def draw_test_split(classes: Sequence[str], names: Sequence[str]) -> NDArray[np.bool_]:
    """Draw a share of each class, at least one sample of two, as the test split.

    A sample's chance follows from a hash of its name alone, so the same names give the same split
    in every run and on every machine, and a few samples more or less change the side of a few.

    Args:
        classes: The class of each of N samples.
        names: A name of each that stays the same, such as its path.

    Returns:
        Mask of shape (N,), True for the test split.
    """
    numbers = pd.Series([_hash_name(name) for name in names], dtype=np.int64)
    is_test = np.zeros(len(numbers), dtype=bool)
    for _, group in numbers.groupby(list(classes)):
        size = min(len(group) - 1, max(1, round(TEST_SHARE * len(group))))
        is_test[group.nsmallest(size).index] = True
    return is_test


def _hash_name(name: str) -> int:
    digest = hashlib.sha256(f"{_SPLIT_SEED}/{name}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1  # fits into int64


def count_samples(samples: pd.DataFrame) -> pd.DataFrame:
    """Count the samples of each class and split.

    Returns:
        One row per class, in the order of the labels (unlabeled samples come first, with an empty
        name), then a row named "total". Columns class_name (str) and, int64, each split that has
        samples.
    """
    by_class = pd.crosstab([samples["label"], samples["class_name"]], samples["split"])
    by_class = by_class[[split for split in SPLITS if split in by_class]]
    counts = by_class.reset_index("class_name").rename_axis(columns=None)
    total = pd.DataFrame([{"class_name": "total", **by_class.sum()}])
    return pd.concat([counts, total], ignore_index=True)


def count_classes(samples: pd.DataFrame) -> int:
    """Return the number of outputs that a classifier of these samples needs."""
    return int(samples["label"].max()) + 1


def check_samples(samples: pd.DataFrame, classes: Sequence[str]) -> None:
    """Check that a network can be trained and tested with the samples.

    A data set may be entirely unlabeled. If there are labels, there must be two classes or more,
    every class needs training samples, and the accuracy needs test samples.

    Raises:
        UserError: There are no training samples, a class has none, there is a single class, there
            are no test samples, or a class name has control characters. The message names the split
            and the classes.
    """
    unprintable = [escape_controls(name) for name in classes if not is_printable(name)]
    if unprintable:
        raise UserError(
            f"control characters in the names of {len(unprintable)} of the {len(classes)} classes, "
            f"escaped here: {list_first(unprintable)}; rename them: a name must not break lines "
            "or steer a terminal"
        )
    labels = {split: samples.loc[samples["split"] == split, "label"] for split in SPLITS}
    if labels["train"].empty:
        if labels["unlabeled"].empty or not labels["test"].empty:
            raise UserError(
                f"the data set has {len(labels['test'])} test samples and no training samples; "
                "training samples are needed: check data.source and data.folder"
            )
        return
    missing = sorted(set(range(len(classes))) - set(labels["train"]))
    if missing:
        raise UserError(
            f"no training samples of {len(missing)} of the {len(classes)} classes: "
            f"{list_first([f'{classes[label]!r} (label {label})' for label in missing])}; every "
            "class needs one or more: add them, or remove the class from the data set"
        )
    if len(classes) == 1:
        raise UserError(
            f"the data set has a single class, {classes[0]!r}, and a classifier needs two or more: "
            "add another class, name the folder that has the class folders in it, or, to pretrain "
            "only, put all images into unlabeled/"
        )
    if labels["test"].empty:
        raise UserError(
            f"the data set has {len(labels['train'])} training samples and no test samples; test "
            "samples are needed to measure the accuracy: add them, or a second image to each class "
            "(one of two or more is drawn as a test sample), or check data.folder"
        )
