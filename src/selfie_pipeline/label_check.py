"""The check of the labels, made before the first training of a run."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from selfie_pipeline.config import Config
from selfie_pipeline.training.data.subset import hold_out, labeled_subset

_TRAINED_ONCE = {"selfie_classifier", "supervised_classifier", "weights_classifier"}
_TRAINED_AS_A_GRID = {"experiment_cells", "params:ratio"}
TRAINED_ON_LABELS = {*_TRAINED_ONCE, *_TRAINED_AS_A_GRID, "tuning_trials"}
"""Entries of the runs that train on labels."""


def check_labels(samples: pd.DataFrame, config: Config, entries: Collection[str]) -> None:
    """Check that there are labels enough for each training of a run, before the first of them.

    The trainings follow from `entries`: the names of the parameters that the run takes (`params:…`)
    and of the entries that it makes.

    Raises:
        UserError: A class would have no label, or no sample could be held out of it.
    """
    labels = samples.loc[samples["split"] == "train", "label"].to_numpy()  # (N,)
    least = min(config.experiment.labeled_fracs)  # larger subsets contain it
    if _TRAINED_ONCE.intersection(entries):
        labeled_subset(labels, config.labeled_frac, config.seed)
    if _TRAINED_AS_A_GRID.intersection(entries):
        for seed in config.experiment.seeds:
            labeled_subset(labels, least, seed)
    if "tuning_trials" in entries:
        kept = hold_out(samples, config.tune).query("split == 'train'")
        labeled_subset(kept["label"].to_numpy(), least, config.tune.seed)
