"""Nodes of the pipeline `report`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from selfie_pipeline.config import (
    AugmentationConfig,
    ComputeConfig,
    ExperimentConfig,
    PatchConfig,
    UserError,
)
from selfie_pipeline.datasets.patch_grids import PatchGrids
from selfie_pipeline.datasets.weights import read_given_weights
from selfie_pipeline.evaluation.selection import Cell, Selection, select_cells
from selfie_pipeline.evaluation.tables import build_results_table, compute_gains
from selfie_pipeline.models.selfie import restore_encoder
from selfie_pipeline.printable import escape_controls
from selfie_pipeline.project import resolve_path
from selfie_pipeline.provenance import find_differences
from selfie_pipeline.report.duplicates import draw_duplicates
from selfie_pipeline.report.figures import (
    draw_accuracy_over_labels,
    draw_gain_over_ratio,
    draw_variance_over_labels,
)
from selfie_pipeline.report.misclassified import (
    draw_confusion_matrix,
    draw_sample_errors,
    select_worst_errors,
)
from selfie_pipeline.report.page import render_report
from selfie_pipeline.report.puzzle import draw_puzzles
from selfie_pipeline.report.text import to_markdown
from selfie_pipeline.report.training_curves import draw_training_curves
from selfie_pipeline.sources import count_samples
from selfie_pipeline.training.data.batches import WindowReader, open_windows, patch_order
from selfie_pipeline.training.device import find_device
from selfie_pipeline.training.lineage import check_encoder, fingerprint_data
from selfie_pipeline.training.pretraining import predict_patches
from selfie_pipeline.weights import Weights

_PUZZLE_IMAGES = 4
_ERROR_IMAGES = 12
_STARTS = {"pretrain", "pretrained_on", "weights"}
"""Parts of the configuration that only some arms have."""


class Puzzles(TypedDict):
    """Arguments of `draw_puzzles`."""

    images: NDArray[np.uint8]
    grid_size: int
    targets: NDArray[np.int64]
    probabilities: NDArray[np.float32]


def solve_puzzles(
    encoder: Weights,
    selfie: dict[str, Any],
    samples: pd.DataFrame,
    patch_grids: PatchGrids,
    patch: PatchConfig,
    augmentation: AugmentationConfig,
    compute: ComputeConfig,
) -> Puzzles:
    """Let the encoder identify the masked patches of a few test images, as in its pretraining.

    There are no puzzles if these images can't be cut into the encoder's patch grid, which may be
    another one: it may be from another recipe.

    Raises:
        UserError: This run's result was finetuned from a different encoder or on other data.
    """
    if selfie["provenance"]["data"] != fingerprint_data(patch_grids, samples):
        raise UserError(
            "the result was finetuned on other images than those in the catalog: run `kedro run "
            "--pipelines=finetune,baseline` again, or load its images with "
            "--load-versions=patch_grids:VERSION,usable_samples:VERSION"
        )
    check_encoder(encoder, selfie["provenance"], "the result")
    network = restore_encoder(encoder.tensors, encoder.provenance)
    pretrained = PatchConfig.model_validate(encoder.provenance["configuration"]["patch"])
    side, rest = divmod(patch.image_size, pretrained.grid_size)
    unseen = samples.loc[samples["split"] == "test", "sample"].to_numpy()
    step = max(1, len(unseen) // _PUZZLE_IMAGES)  # spreads the images over the classes
    rows = unseen[::step][: 0 if rest else _PUZZLE_IMAGES]
    images = open_windows(patch_grids, patch, augmentation)
    order = patch_order(0, 0, len(rows), pretrained.patches)  # (B, N)
    targets = order[:, -pretrained.targets :].numpy()  # (B, T)
    return Puzzles(
        images=images.read_pictures(rows),  # (B, H, W, C)
        grid_size=pretrained.grid_size,
        targets=targets,
        probabilities=predict_patches(network, images, rows, side, order, find_device(compute))
        if len(rows)
        else np.empty((*targets.shape, pretrained.targets), dtype=np.float32),
    )


def tabulate_results(
    cells: list[dict[str, Any]],
    selfie: dict[str, Any],
    supervised: dict[str, Any],
    experiment: ExperimentConfig,
    weights: str | None,
) -> tuple[Selection, pd.DataFrame, str]:
    """Tabulate the results that are comparable with this run's two results.

    `cells` has all results of this recipe, and `experiment` says what other arms are shown;
    `weights` is the file of the given weights, if there is one.

    Returns:
        The selection of results, their table, and the table in Markdown.

    Raises:
        UserError: The two arms were trained differently.
    """
    check_comparable(selfie, supervised)
    shown = {selfie["configuration"], supervised["configuration"]}
    others = [cell for cell in cells if cell["arm"] in experiment.arms]
    if weights is not None and others:
        digest = read_given_weights(resolve_path(weights)).provenance["weights"]
        shown |= {
            cell["configuration"]
            for cell in others
            if _starts_from(cell, digest, selfie, supervised)
        }
    selection = select_cells(cells, shown, [supervised, selfie])
    table = build_results_table(selection.used)
    return selection, table, to_markdown(table)


def _starts_from(cell: Cell, digest: str, selfie: Cell, supervised: Cell) -> bool:
    """Return whether a cell differs from this run's only by its start from these weights."""
    own, theirs = (
        {key: value for key, value in one["provenance"]["configuration"].items() if key in _STARTS}
        for one in (cell, selfie)
    )
    begun = theirs | {"pretrain": theirs.get("pretrain", {}) | {"weights": digest}}
    return own in ({"weights": digest}, begun) and not _list_differences(cell, supervised)


def check_comparable(selfie: Cell, supervised: Cell) -> None:
    """Check that two arms differ only in the pretraining and in values that were tuned for both.

    Raises:
        UserError: They differ in others; the message names each parameter and its two values.
    """
    if different := _list_differences(selfie, supervised):
        raise UserError(
            f"the two arms were trained with different {', '.join(different)}; run `kedro run "
            "--pipelines=finetune,baseline,report` with the intended parameters"
        )


def _list_differences(one: Cell, other: Cell) -> list[str]:
    """Return the parameters that differ, beside the start and what was tuned for both."""
    pair = [cell["provenance"] for cell in (one, other)]
    tuned = set.intersection(*(set(provenance.get("tuned") or {}) for provenance in pair))
    different = [
        f"{key} ({first} and {second})"
        for key, first, second in find_differences(*(made["configuration"] for made in pair))
        if key.split(".")[0] not in _STARTS and key not in tuned
    ]
    if pair[0]["data"] != pair[1]["data"]:
        different.append("the data")
    return different


def write_report(
    selection: Selection,
    table: pd.DataFrame,
    check: dict[str, Any],
    samples: pd.DataFrame,
    selfie: dict[str, Any],
    predictions: pd.DataFrame,
    puzzles: Puzzles,
    pretrain_history: pd.DataFrame,
    selfie_history: pd.DataFrame,
    supervised_history: pd.DataFrame,
    patch_grids: PatchGrids,
    patch: PatchConfig,
    augmentation: AugmentationConfig,
) -> tuple[str, *tuple[Figure, ...]]:
    """Draw the figures and render the page.

    Returns:
        The page as HTML, and all figures, including those that the page omits for lack of data:
        accuracy over labels, variance over labels, gain over the ratio of images to labels,
        training curves, puzzle picture, confusion matrix and sample errors.
    """
    gains = compute_gains(selection)
    histories = {"supervised": supervised_history, "selfie": selfie_history}
    pairs = check["examples"] if check else []
    run = f"seed {selfie['seed']}, {100 * selfie['labeled_frac']:g} % of the labels"
    images = open_windows(patch_grids, patch, augmentation)
    counts = count_samples(samples).iloc[:-1]  # the last row is the total
    drawn = {
        "accuracy": draw_accuracy_over_labels(table),
        "variance": draw_variance_over_labels(table),
        "gain": draw_gain_over_ratio(gains),
        "training": draw_training_curves(
            pretrain_history, histories, 1 / puzzles["targets"].shape[1]
        ),
        "puzzle": draw_puzzles(**puzzles),
        **_draw_errors(predictions, list_class_names(samples), images),
    }
    seeds = {"Variance": drawn["variance"]} if table["std"].notna().any() else {}
    more = {"Accuracy over labels": drawn["accuracy"]}
    if len(puzzles["images"]):
        more["The puzzle"] = drawn["puzzle"]
    if len(set(gains["images"])) > 1:
        more["Gain over the ratio of images to labels"] = drawn["gain"]
    page = render_report(
        table,
        selection,
        counts=counts.replace({"class_name": {"": "no class"}}).set_index("class_name"),
        check=check,
        figures={
            "data": {"Images in two splits": draw_duplicates(pairs, patch_grids.read_canvases)}
            if pairs
            else {},
            "convergence": {f"Training ({run})": drawn["training"]},
            "seeds": seeds,
            "errors": {
                f"Confused classes, Selfie ({run})": drawn["confusion"],
                f"Sample errors, Selfie ({run})": drawn["errors"],
            },
            "more": more,
        },
    )
    return page, *drawn.values()


def _draw_errors(
    predictions: pd.DataFrame, classes: Sequence[str], images: WindowReader
) -> dict[str, Figure]:
    """Draw the confusion matrix and the samples that are wrong with the largest probability."""
    check_predictions(predictions, classes)
    wrong = select_worst_errors(predictions, _ERROR_IMAGES)
    pixels = images.read_pictures(wrong["sample"].to_numpy())  # (B, H, W, C)
    return {
        "confusion": draw_confusion_matrix(predictions, classes),
        "errors": draw_sample_errors(pixels, wrong, classes=classes),
    }


def check_predictions(predictions: pd.DataFrame, classes: Sequence[str]) -> None:
    """Check that predictions are of these classes.

    Raises:
        UserError: They are of others.
    """
    largest = int(predictions[["label", "predicted", "runner_up"]].to_numpy().max())
    if largest >= len(classes):
        raise UserError(
            f"the predictions have a class {largest}, and the data set has {len(classes)} classes, "
            "from 0: run `kedro run --pipelines=finetune,baseline` again"
        )


def list_class_names(samples: pd.DataFrame) -> list[str]:
    """Return the names of the classes, indexed by label, without control characters."""
    # No label is missing: ingest and patch refuse a class without training images.
    named = samples[samples["label"] >= 0].groupby("label")["class_name"].first()
    return [escape_controls(name) for name in named]
