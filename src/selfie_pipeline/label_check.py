"""The checks of the labels, made before the first training of a run."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd
from kedro.io import DataCatalog

from selfie_pipeline.config import Config, UserError
from selfie_pipeline.project import resolve_path
from selfie_pipeline.provenance import DATA_PARAMETERS, LABEL_TABLES, hash_file
from selfie_pipeline.training.data.subset import hold_out, labeled_subset
from selfie_pipeline.versions import versioned_entries

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
    name = "min(experiment.labeled_fracs)"
    if _TRAINED_ONCE.intersection(entries):
        labeled_subset(labels, config.labeled_frac, config.seed)
    if _TRAINED_AS_A_GRID.intersection(entries):
        for seed in config.experiment.seeds:
            labeled_subset(labels, least, seed, name)
    if "tuning_trials" in entries:
        kept = hold_out(samples, config.tune).query("split == 'train'")
        labeled_subset(kept["label"].to_numpy(), least, config.tune.seed, name)


def check_labels_are_current(
    usable: pd.DataFrame, catalog: DataCatalog, saved: Collection[str]
) -> None:
    """Check that no other labels than those of the usable samples were listed or written since.

    `usable` are the samples of which the run trains on some, and `saved` what it saves.

    Raises:
        UserError: Later samples are other ones, or a label table was edited.
    """
    names = {"samples", "usable_samples"}
    entries = versioned_entries(names, catalog)
    if "usable_samples" not in saved and entries.keys() == names and catalog.exists("samples"):
        listed, stored = (str(entry.resolve_load_version()) for entry in entries.values())
        if listed > stored and (changed := _count_changed(usable, catalog)):
            raise UserError(
                f"samples {listed} are later than usable_samples {stored}: {changed} images are "
                "new or gone, or have another class or split; run `kedro run --pipeline=patch`, "
                f"or keep the earlier ones with --load-versions=usable_samples:{stored}"
            )
    if names.issubset(saved):
        return
    for path, digest in usable.attrs.get(DATA_PARAMETERS, {}).get(LABEL_TABLES, {}).items():
        if hash_file(resolve_path(path)) not in {None, digest}:
            raise UserError(
                f"{path} has changed since its labels were stored; run `kedro run "
                "--pipelines=ingest,patch` again, or keep them with "
                "--load-versions=usable_samples:VERSION"
            )


def _count_changed(usable: pd.DataFrame, catalog: DataCatalog) -> int:
    """Count the images by which the latest samples differ from those that were stored."""
    listed = catalog.load("samples")
    now, then = (
        pd.MultiIndex.from_frame(table[["place", "split", "class_name"]])
        for table in (listed, usable)
    )
    # Usable samples lack those without an image and the leaked ones; the patch grids have all.
    added = len(listed) - len(catalog.load("patch_grids"))
    return int((~then.isin(now)).sum()) + max(0, added)
