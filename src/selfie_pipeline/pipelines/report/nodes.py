"""Nodes of the report."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypedDict

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from selfie_pipeline.config import (
    AugmentationConfig,
    ComputeConfig,
    ModelConfig,
    PatchConfig,
    UserError,
)
from selfie_pipeline.datasets.patch_grids import PatchGrids
from selfie_pipeline.evaluation.tables import (
    Cell,
    Selection,
    gains_over_ratio,
    results_table,
    select,
)
from selfie_pipeline.provenance import leaves
from selfie_pipeline.report.figures import (
    accuracy_over_labels,
    gain_over_ratio,
    variance_over_labels,
)
from selfie_pipeline.report.misclassified import confusion_matrix, sample_errors, worst_errors
from selfie_pipeline.report.page import render_report
from selfie_pipeline.report.puzzle import puzzle_picture
from selfie_pipeline.report.text import to_markdown
from selfie_pipeline.report.training_curves import training_curves
from selfie_pipeline.training.data.batches import open_images, patch_order
from selfie_pipeline.training.device import find_device
from selfie_pipeline.training.pretraining import predict_patches
from selfie_pipeline.weights import Weights

_PUZZLES = 4
_ERRORS = 12
_PRETRAINING = {"pretrain", "pretrained_on"}
"""Parts of the configuration that only the arm that was pretrained has."""


class Puzzles(TypedDict):
    """What `puzzle_picture` draws."""

    images: NDArray[np.uint8]
    grid: tuple[int, int]
    targets: NDArray[np.int64]
    probabilities: NDArray[np.float32]


class Mistakes(TypedDict):
    """What `sample_errors` draws."""

    images: NDArray[np.uint8]
    predictions: pd.DataFrame


def solve_puzzles(
    encoder: Weights,
    selfie: dict[str, Any],
    samples: pd.DataFrame,
    patch_grids: PatchGrids,
    patch: PatchConfig,
    augmentation: AugmentationConfig,
    model: ModelConfig,
    compute: ComputeConfig,
) -> Puzzles:
    """Let the encoder pick the masked patches of a few images that it was not trained on.

    Raises:
        UserError: It is not the encoder that this run's result was finetuned from, or does not fit
            the parameters.
    """
    if encoder.digest() != selfie["provenance"]["encoder"]:
        raise UserError(
            "the result was finetuned from another encoder than this one: run `kedro run "
            "--pipeline=finetune` again, or name its version with --load-versions=encoder:VERSION"
        )
    unseen = samples.loc[samples["split"] == "test", "sample"].to_numpy()
    rows = unseen[:: max(1, len(unseen) // _PUZZLES)][:_PUZZLES]  # spread over the classes
    images = open_images(patch_grids, patch, augmentation)
    order = patch_order(0, 0, len(rows), patch.patches)  # (B, N)
    try:
        probabilities = predict_patches(
            encoder.tensors, model, images, rows, order, find_device(compute)
        )
    except ValueError as error:
        raise UserError(
            f"{error}; it was pretrained with other model or patch parameters: run `kedro run "
            "--pipeline=pretrain`, or name a version that fits with --load-versions=encoder:VERSION"
        ) from None
    return Puzzles(
        images=images.central_windows(rows).permute(0, 2, 3, 1).numpy(),  # (B, H, W, C)
        grid=(patch.grid_size, patch.grid_size),
        targets=order[:, -patch.targets :].numpy(),  # (B, T)
        probabilities=probabilities,
    )


def pick_errors(
    predictions: pd.DataFrame,
    patch_grids: PatchGrids,
    patch: PatchConfig,
    augmentation: AugmentationConfig,
) -> Mistakes:
    """Fetch the test images that a classifier gets wrong although it is sure of them."""
    wrong = worst_errors(predictions, _ERRORS)
    images = open_images(patch_grids, patch, augmentation)
    windows = images.central_windows(wrong["sample"].to_numpy())  # (B, C, H, W)
    return Mistakes(images=windows.permute(0, 2, 3, 1).numpy(), predictions=wrong)  # (B, H, W, C)


def tabulate_results(
    cells: list[dict[str, Any]], selfie: dict[str, Any], supervised: dict[str, Any]
) -> tuple[Selection, pd.DataFrame, str]:
    """Gather the results that may be compared with this run's two.

    Args:
        cells: All results of this recipe.
        selfie: This run's.
        supervised: This run's.

    Returns:
        As `tabulate`.

    Raises:
        UserError: The two arms were not trained alike.
    """
    check_alike(selfie, supervised)
    return tabulate(cells, {selfie["configuration"], supervised["configuration"]})


def tabulate(
    cells: list[dict[str, Any]], configurations: Collection[str]
) -> tuple[Selection, pd.DataFrame, str]:
    """Make the table of the results that were made with some configurations.

    Args:
        cells: All results of this recipe.
        configurations: Hashes; no two of them of the same arm and labeled fraction.

    Returns:
        Which results are used, their table, and the same in Markdown.
    """
    selection = select(cells, configurations)
    table = results_table(selection.used)
    return selection, table, to_markdown(table)


def check_alike(selfie: Cell, supervised: Cell) -> None:
    """Refuse to compare arms that differ in more than the pretraining and what was tuned for both.

    Raises:
        UserError: They do; the message names each parameter and its two values.
    """
    pair = [cell["provenance"] for cell in (selfie, supervised)]
    ours, theirs = (dict(leaves(provenance["configuration"])) for provenance in pair)
    tuned = set.intersection(*(set(provenance.get("tuned") or {}) for provenance in pair))
    different = [
        f"{key} ({ours.get(key)} and {theirs.get(key)})"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
        and key.split(".")[0] not in _PRETRAINING
        and key not in tuned
    ]
    if pair[0]["data"] != pair[1]["data"]:
        different.append("the data")
    if different:
        raise UserError(
            f"the two arms were trained with different {', '.join(different)}; run `kedro run "
            "--pipelines=finetune,baseline,report` with the parameters that you mean"
        )


def write_report(
    selection: Selection,
    table: pd.DataFrame,
    sample_counts: pd.DataFrame,
    samples: pd.DataFrame,
    selfie: dict[str, Any],
    predictions: pd.DataFrame,
    mistakes: Mistakes,
    puzzles: Puzzles,
    pretrain_history: pd.DataFrame,
    selfie_history: pd.DataFrame,
    supervised_history: pd.DataFrame,
    patch: PatchConfig,
) -> tuple[str, Figure, Figure, Figure, Figure, Figure, Figure, Figure]:
    """Draw the figures and lay out the page.

    Returns:
        The page as HTML, and all figures, also those that the page leaves out because nothing
        could be said with them: accuracy over labels, variance over labels, the gain over the
        ratio of images to labels, the training curves, the puzzle picture, the confusion matrix
        and the sample errors.
    """
    gains = gains_over_ratio(selection)
    classes = class_names(samples)
    histories = {"supervised": supervised_history, "selfie": selfie_history}
    over_labels = accuracy_over_labels(table)
    variance = variance_over_labels(table)
    gain = gain_over_ratio(gains)
    curves = training_curves(pretrain_history, histories, 1 / patch.targets)
    puzzle = puzzle_picture(**puzzles)
    confusion = confusion_matrix(predictions, classes)
    errors = sample_errors(**mistakes, classes=classes)
    run = f"seed {selfie['seed']}, {100 * selfie['labeled_frac']:g} % of the labels"
    figures = {"Accuracy over labels": over_labels}
    if table["std"].notna().any():
        figures["Variance"] = variance
    if len(set(gains["images"])) > 1:
        figures["Gain over the ratio of images to labels"] = gain
    figures |= {
        f"Training ({run})": curves,
        "The puzzle": puzzle,
        f"Confusion matrix of Selfie ({run})": confusion,
        f"Sample errors of Selfie ({run})": errors,
    }
    page = render_report(
        table,
        selection,
        data=str(table["data"].iloc[0]),
        counts=sample_counts.iloc[:-1].set_index("class_name"),  # the last row is the total
        figures=figures,
    )
    return page, over_labels, variance, gain, curves, puzzle, confusion, errors


def class_names(samples: pd.DataFrame) -> list[str]:
    """Names of the classes by label."""
    named = samples[samples["label"] >= 0].groupby("label")["class_name"].first()
    return [str(name) for name in named.reindex(range(named.index.max() + 1), fill_value="?")]
