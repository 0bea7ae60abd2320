"""The table of samples: how it is made, counted and checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from selfie_pipeline.config import UserError

SPLITS = ("train", "test", "unlabeled")
SAMPLE_COLUMNS = ("split", "label", "class_name", "place")
"""Of every table of samples, beside its index."""


def sample_table(
    splits: Sequence[str], labels: NDArray[np.int64], places: Sequence[str], classes: Sequence[str]
) -> pd.DataFrame:
    """Make the table of samples.

    Args:
        splits: One of `SPLITS` for each of the N samples.
        labels: int64 of shape (N,): the class as a place in `classes`; -1 for no label.
        places: Where each lies in its source, for people: "data_batch_3[17]".
        classes: Class names.

    Returns:
        One row a sample, index 0 to N - 1 named "sample" (the sample's row in the patch grids),
        columns split (str), label (int64, -1 for no label), class_name (str, empty for no label)
        and place (str).
    """
    table = pd.DataFrame({"split": splits, "label": labels, "place": places})
    table.insert(2, "class_name", table["label"].map({-1: "", **dict(enumerate(classes))}))
    return table.rename_axis(index="sample")


def count_samples(samples: pd.DataFrame) -> pd.DataFrame:
    """Count the samples of each class and split.

    Args:
        samples: As `sample_table` makes it.

    Returns:
        One row a class, in the order of the labels (samples without a label come first, under an
        empty name), then a row named "total". Columns class_name (str) and, int64, one for each
        split that has samples.
    """
    by_class = pd.crosstab([samples["label"], samples["class_name"]], samples["split"])
    by_class = by_class[[split for split in SPLITS if split in by_class]]
    counts = by_class.reset_index("class_name").rename_axis(columns=None)
    total = pd.DataFrame([{"class_name": "total", **by_class.sum()}])
    return pd.concat([counts, total], ignore_index=True)


def check_samples(samples: pd.DataFrame, classes: Sequence[str]) -> None:
    """Refuse a table of samples that nothing can be trained on or tested with.

    Samples of the split "unlabeled" may be all there is; where there are labels, every class needs
    training samples, and there must be test samples to measure the accuracy with.

    Args:
        samples: As `sample_table` makes it.
        classes: Class names.

    Raises:
        UserError: There is nothing to train on, a class has no training samples, or there are no
            test samples. The message names the split and the classes.
    """
    labels = {split: samples.loc[samples["split"] == split, "label"] for split in SPLITS}
    if labels["train"].empty:
        if labels["unlabeled"].empty or not labels["test"].empty:
            raise UserError(
                f"the data set has {len(labels['test'])} test samples and no training samples; "
                "training samples are needed: look at data.source and data.folder"
            )
        return
    missing = sorted(set(range(len(classes))) - set(labels["train"]))
    if missing:
        raise UserError(
            f"no training samples of {len(missing)} of the {len(classes)} classes: "
            f"{_some([f'{classes[label]!r} (label {label})' for label in missing])}; every class "
            "needs one or more: add them, or take the class out of the data set"
        )
    if labels["test"].empty:
        raise UserError(
            f"the data set has {len(labels['train'])} training samples and no test samples; test "
            "samples are needed to measure the accuracy: look at data.folder"
        )


def _some(names: Sequence[str], most: int = 5) -> str:
    """The first few names and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
