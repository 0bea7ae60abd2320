"""Damaged results and tables that the program reads back: JSON, CSV and Parquet."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from hypothesis import strategies as st
from kedro.io import DatasetError
from kedro.io.core import AbstractVersionedDataset, Version
from tests.hostile.damage import damaged_bytes, damaged_json, damaged_tree
from tests.hostile.inputs import Input, Kind, WrongResultError
from tests.hostile.kinds.sets import damaged_columns, write_csv, write_parquet
from tests.hostile.kinds.stored import grid_files, small_config

from selfie_pipeline.config import UserError
from selfie_pipeline.datasets import results
from selfie_pipeline.datasets.patch_grids import PatchGrids
from selfie_pipeline.evaluation.selection import select_cells
from selfie_pipeline.evaluation.tables import build_results_table, compute_gains
from selfie_pipeline.label_check import TRAINED_ON_LABELS, check_labels
from selfie_pipeline.pipelines.patch.nodes import list_usable_samples
from selfie_pipeline.pipelines.report.nodes import (
    check_comparable,
    check_predictions,
    list_class_names,
)
from selfie_pipeline.printable import is_printable
from selfie_pipeline.report.duplicates import draw_duplicates
from selfie_pipeline.report.misclassified import (
    draw_confusion_matrix,
    draw_sample_errors,
    select_worst_errors,
)
from selfie_pipeline.report.text import terminal_table, to_markdown
from selfie_pipeline.report.training_curves import draw_training_curves
from selfie_pipeline.training.data.batches import open_windows
from selfie_pipeline.training.lineage import fingerprint_data

_VERSION = "2026-01-01T00.00.00.000Z"
_CLASSES = ["cat", "dog"]

_RESULT = {
    "data": "digits", "network": "ResNet", "arm": "selfie", "labeled_frac": 0.1, "labels": 126,
    "seed": 0, "accuracy": 0.5, "loss": 1.5, "test_samples": 10, "correct": "f040",
    "configuration": "c0ffee",
    "provenance": {
        "configuration": {"finetune": {"steps": 4}, "pretrain": {"images": None}},
        "data": "da7a", "classifier": "c1a5", "encoder": "e4c0",
        "tuned": {"finetune.peak_learning_rate": 0.1}, "pretraining_images": 1257,
        "training": {"loss": 0.5, "loss_before": 0.6, "accuracy": 0.9},
    },
}  # fmt: skip
_HISTORY: dict[str, list[Any]] = {
    "step": [2, 4, 6], "loss": [1.5, 1.0, 0.5], "accuracy": [0.0, 0.5, 1.0],
    "learning_rate": [0.1, 0.05, 0.0],
}  # fmt: skip
_PREDICTIONS: dict[str, list[Any]] = {
    "sample": [4, 5], "label": [1, 0], "predicted": [1, 1], "probability": [0.75, 0.5],
    "runner_up": [0, 0], "correct": [True, False],
}  # fmt: skip
_SETTINGS = {
    "study": "selfie, 5 %", "arm": "selfie", "labeled_frac": 0.05,
    "settings": {"peak_learning_rate": 0.1}, "validation_accuracy": 0.5, "trials": 3,
}  # fmt: skip
_TRIALS: dict[str, list[Any]] = {
    "arm": ["selfie"] * 2, "labeled_frac": [0.05] * 2, "trial": [1, 2],
    "state": ["complete", "pruned"], "peak_learning_rate": [0.1, 0.2],
    "validation_accuracy": [0.5, None], "study": ["a"] * 2,
}  # fmt: skip
_DUPLICATES = {
    f"{side}_{name}": value
    for side, sample, split in (("first", 0, "train"), ("second", 5, "test"))
    for name, value in {
        "sample": sample, "split": split, "class_name": "cat", "place": f"{sample}.png"
    }.items()
}  # fmt: skip
_CHECK = {
    "splits": [
        {"split": split, "images": 3, "unreadable": 0, "classes": 2, "smallest_class": 1,
         "largest_class": 2, "copies": 0}
        for split in ("train", "test")
    ],
    "overlaps": [
        {"first": "train", "second": "test", "pairs": 1, "exact": 1, "near": 0,
         "second_images": 1, "other_class": 0}
    ],
    "dropped": 0,
    "examples": [_DUPLICATES | {"similarity": 1.0, "kind": "exact"}],
}  # fmt: skip
_SAMPLES: dict[str, list[Any]] = {
    "sample": [0, 1, 2, 3, 4, 5], "split": ["train"] * 4 + ["test"] * 2,
    "label": [0, 1, 0, 1, 0, 1], "class_name": _CLASSES * 3,
    "place": [f"{number}.png" for number in range(6)],
}  # fmt: skip


def _grids(folder: Path) -> PatchGrids:
    """Write patch grids of six samples."""
    target = folder / "data" / "grids"
    target.mkdir()
    for name, content in grid_files().items():
        (target / name).write_bytes(content)
    return PatchGrids(target)


def _use_result(result: Any, folder: Path) -> None:
    pattern = str(folder / "input" / "**" / "file")
    cells = results.AllVersionsDataset(filepath=pattern).load()
    if len(cells) != 1:
        raise WrongResultError(f"one result, {len(cells)} in the table")
    with contextlib.suppress(UserError):
        check_comparable(result, _RESULT)
    selection = select_cells(cells, {result["configuration"]})
    table = build_results_table(selection.used)
    to_markdown(table)
    if not is_printable(terminal_table(table).replace("\n", "")):
        raise WrongResultError("the table has control characters")
    compute_gains(selection)


def _use_history(history: Any, folder: Path) -> None:
    draw_training_curves(history, {"selfie": history, "supervised": history}, 0.25)
    plt.close("all")


def _use_predictions(predictions: Any, folder: Path) -> None:
    config = small_config()
    check_predictions(predictions, _CLASSES)
    images = open_windows(_grids(folder), config.patch, config.augmentation)
    wrong = select_worst_errors(predictions, 12)
    windows = images.read_central(wrong["sample"].to_numpy())  # (B, C, H, W)
    draw_confusion_matrix(predictions, _CLASSES)
    draw_sample_errors(windows.permute(0, 2, 3, 1).numpy(), wrong, classes=_CLASSES)
    plt.close("all")


def _use_settings(settings: Any, folder: Path) -> None:
    recipe = small_config().finetune
    for best in settings:
        recipe.model_copy(update=best["settings"])


def _use_check(check: Any, folder: Path) -> None:
    draw_duplicates(check["examples"] if check else [], _grids(folder).read_canvases)
    plt.close("all")


def _use_samples(samples: Any, folder: Path) -> None:
    grids = _grids(folder)
    fingerprint_data(grids, samples)
    check_labels(samples, small_config(), TRAINED_ON_LABELS)
    list_class_names(samples)
    rows = samples.loc[samples["split"] != "test", "sample"].to_numpy()
    grids.gather(rows)
    list_usable_samples(samples, grids, pd.DataFrame(), small_config().data)


def _use_nothing(content: Any, folder: Path) -> None:
    """Do nothing with a table that only people read."""


@dataclass(frozen=True)
class _Entry:
    """An entry of the catalog.

    Attributes:
        type: Its type.
        format: json, csv or parquet.
        content: An intact content.
        use: The program's use of it.
        options: Arguments of the type.
    """

    type: type[AbstractVersionedDataset[Any, Any]]
    format: str
    content: Any
    use: Callable[[Any, Path], None]
    options: dict[str, Any] = field(default_factory=dict)


_CSV = {"save_args": {"index": False}}
_ENTRIES = {
    "metrics": _Entry(results.ResultDataset, "json", _RESULT, _use_result),
    "history": _Entry(results.HistoryDataset, "csv", _HISTORY, _use_history, _CSV),
    "predictions": _Entry(results.PredictionsDataset, "parquet", _PREDICTIONS, _use_predictions),
    "best settings": _Entry(results.BestSettingsDataset, "json", [_SETTINGS] * 2, _use_settings),
    "trials": _Entry(results.TuningTrialsDataset, "csv", _TRIALS, _use_nothing, _CSV),
    "data check": _Entry(results.DataCheckDataset, "json", _CHECK, _use_check),
    "samples": _Entry(results.SamplesDataset, "parquet", _SAMPLES, _use_samples),
}


@st.composite
def _files(draw: st.DrawFn, entry: _Entry) -> Input:
    grid_files()  # made now, because an input that is tried must not write elsewhere
    if entry.format == "json":
        content, how = draw(damaged_json(entry.content))
    else:
        how = draw(st.sampled_from(["values changed", "values changed", "bytes"]))
        if entry.format == "parquet":
            columns = entry.content if how == "bytes" else draw(damaged_columns(entry.content))
            content = write_parquet(columns)
        else:
            trees = st.one_of(damaged_columns(entry.content), damaged_tree(entry.content))
            tree = entry.content if how == "bytes" else draw(trees)
            content = write_csv(tree if isinstance(tree, dict) else {"step": tree}).encode(
                "utf-8", "replace"
            )
        if how == "bytes":
            content, how = draw(damaged_bytes(content))
            how = f"damaged: {how}"
    return Input(how, {f"file/{_VERSION}/file": content}, how)


def _load(entry: _Entry, item: Input, folder: Path) -> None:
    path = str(folder / "input" / "file")
    content = entry.type(filepath=path, version=Version(None, None), **entry.options).load()
    damaged = entry.format == "parquet" and item.value.startswith("damaged")
    if damaged and content.to_dict("list") != entry.content:  # its pages have checksums
        raise WrongResultError("the table is another")
    entry.use(content, folder)


def _kind(name: str) -> Kind:
    entry = _ENTRIES[name]
    return Kind(
        f"results/{name}", _files(entry), partial(_load, entry), (UserError, DatasetError), share=15
    )


KINDS = [_kind(name) for name in _ENTRIES]
