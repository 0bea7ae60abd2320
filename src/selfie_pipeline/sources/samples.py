"""The table of samples: building, counting and checking it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from selfie_pipeline.config import UserError

SPLITS = ("train", "test", "unlabeled")
SAMPLE_COLUMNS = ("split", "label", "class_name", "place")
"""Columns of every table of samples, besides its index."""


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


def count_samples(samples: pd.DataFrame) -> pd.DataFrame:
    """Count the samples of each class and split.

    Args:
        samples: Table built by `build_sample_table`.

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


def check_samples(samples: pd.DataFrame, classes: Sequence[str]) -> None:
    """Check that a network can be trained and tested with the samples.

    A data set may be entirely unlabeled. If there are labels, every class needs training samples,
    and the accuracy needs test samples.

    Args:
        samples: Table built by `build_sample_table`.
        classes: Class names.

    Raises:
        UserError: There are no training samples, a class has none, or there are no test samples.
            The message names the split and the classes.
    """
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
            f"{_abbreviate([f'{classes[label]!r} (label {label})' for label in missing])}; every "
            "class needs one or more: add them, or remove the class from the data set"
        )
    if labels["test"].empty:
        raise UserError(
            f"the data set has {len(labels['train'])} training samples and no test samples; test "
            "samples are needed to measure the accuracy: check data.folder"
        )


def _abbreviate(names: Sequence[str], limit: int = 5) -> str:
    """Join the first names, and count the others."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
