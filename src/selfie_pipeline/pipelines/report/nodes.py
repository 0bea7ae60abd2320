"""Nodes of the report."""

from __future__ import annotations

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
from selfie_pipeline.datasets.weights import Weights
from selfie_pipeline.evaluation.figures import accuracy_over_labels, training_curves
from selfie_pipeline.evaluation.puzzle import puzzle_picture
from selfie_pipeline.evaluation.report import render_report
from selfie_pipeline.evaluation.tables import Cell, Selection, results_table, select
from selfie_pipeline.evaluation.wording import to_markdown
from selfie_pipeline.pipelines.patch.nodes import stored_images
from selfie_pipeline.training.batches import patch_order
from selfie_pipeline.training.device import find_device
from selfie_pipeline.training.pretraining import pick

_PUZZLES = 4


class Puzzles(TypedDict):
    """What `puzzle_picture` draws."""

    images: NDArray[np.uint8]
    grid: tuple[int, int]
    targets: NDArray[np.int64]
    probabilities: NDArray[np.float32]


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
    images = stored_images(patch_grids, patch, augmentation)
    order = patch_order(0, 0, len(rows), patch.patches)  # (B, N)
    try:
        probabilities = pick(encoder.tensors, model, images, rows, order, find_device(compute))
    except ValueError as error:
        raise UserError(
            f"{error}; it was pretrained with other model or patch parameters: run `kedro run "
            "--pipeline=pretrain`, or name a version that fits with --load-versions=encoder:VERSION"
        ) from None
    return Puzzles(
        images=images.central(rows).permute(0, 2, 3, 1).numpy(),  # (B, H, W, C)
        grid=(patch.grid_size, patch.grid_size),
        targets=order[:, -patch.targets :].numpy(),  # (B, T)
        probabilities=probabilities,
    )


def tabulate_results(
    cells: list[dict[str, Any]], selfie: dict[str, Any], supervised: dict[str, Any]
) -> tuple[Selection, pd.DataFrame, str]:
    """Gather the results that may be compared with this run's two.

    Args:
        cells: All results of this recipe.
        selfie: This run's.
        supervised: This run's.

    Returns:
        Which results are used, their table, and the same in Markdown.

    Raises:
        UserError: The two arms were not trained alike.
    """
    _check_alike(selfie, supervised)
    selection = select(cells, {selfie["configuration"], supervised["configuration"]})
    table = results_table(selection.used)
    return selection, table, to_markdown(table)


def _check_alike(selfie: Cell, supervised: Cell) -> None:
    """Refuse to compare arms that differ in more than the pretraining."""
    ours, theirs = (
        dict(_leaves(cell["provenance"]["configuration"])) for cell in (selfie, supervised)
    )
    different = [
        f"{key} ({ours.get(key)} and {theirs.get(key)})"
        for key in sorted(ours.keys() | theirs.keys())
        if not key.startswith("pretrain.") and ours.get(key) != theirs.get(key)
    ]
    if selfie["provenance"]["data"] != supervised["provenance"]["data"]:
        different.append("the data")
    if different:
        raise UserError(
            f"the two arms were trained with different {', '.join(different)}; run `kedro run "
            "--pipelines=finetune,baseline,report` with the parameters that you mean"
        )


def _leaves(nested: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """The values of nested dictionaries by their dotted keys."""
    found = []
    for key, value in nested.items():
        found += (
            _leaves(value, f"{above}{key}.") if isinstance(value, dict) else [(above + key, value)]
        )
    return found


def write_report(
    selection: Selection,
    table: pd.DataFrame,
    sample_counts: pd.DataFrame,
    puzzles: Puzzles,
    pretrain_history: pd.DataFrame,
    selfie_history: pd.DataFrame,
    supervised_history: pd.DataFrame,
    patch: PatchConfig,
) -> tuple[str, Figure, Figure, Figure]:
    """Draw the figures and lay out the page.

    Returns:
        The page as HTML; the training curves, accuracy over labels, and the puzzle picture.
    """
    histories = {"supervised": supervised_history, "selfie": selfie_history}
    curves = training_curves(pretrain_history, histories, 1 / patch.targets)
    over_labels = accuracy_over_labels(table)
    puzzle = puzzle_picture(**puzzles)
    counts = sample_counts.set_index("class_name").drop(index="total")
    page = render_report(
        table,
        selection,
        data=str(table["data"].iloc[0]),
        counts=counts,
        figures={
            "Accuracy over labels": over_labels,
            "The puzzle": puzzle,
            "Training": curves,
        },
    )
    return page, curves, over_labels, puzzle
