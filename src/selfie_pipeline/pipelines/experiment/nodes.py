"""Nodes of the experiment."""

from __future__ import annotations

import itertools
import logging
from typing import Any, get_args

import pandas as pd

from selfie_pipeline.config import (
    Arm,
    AugmentationConfig,
    ComputeConfig,
    ExperimentConfig,
    FinetuneConfig,
    ModelConfig,
    PatchConfig,
    TuneConfig,
    UserError,
)
from selfie_pipeline.datasets.patch_grids import PatchGrids
from selfie_pipeline.evaluation.tables import Cell
from selfie_pipeline.pipelines.experiment.cells import (
    Outcome,
    Place,
    Planned,
    from_table,
    grid,
    run_cells,
    to_table,
)
from selfie_pipeline.project import Project
from selfie_pipeline.training.lineage import FROM_SCRATCH, classifier_lineage, pretraining_lineage
from selfie_pipeline.training.search import Best, Search
from selfie_pipeline.weights import Weights

_LOG = logging.getLogger(__name__)
_OF_A_CELL = ("metrics", "history", "predictions")
"""What the report reads of a cell."""


def run_experiment(
    encoder: Weights,
    patch_grids: PatchGrids,
    results: list[Cell],
    best_settings: list[dict[str, Any]],
    project: Project,
    patch: PatchConfig,
    augmentation: AugmentationConfig,
    model: ModelConfig,
    recipe: FinetuneConfig,
    tune: TuneConfig,
    experiment: ExperimentConfig,
    compute: ComputeConfig,
) -> pd.DataFrame:
    """Run the cells of the grid that have no result yet, with what the tuning found for them.

    Returns:
        One row a cell: what became of it.
    """
    found = [Best(**best) for best in best_settings]
    pretraining = {"supervised": FROM_SCRATCH, "selfie": pretraining_lineage(encoder)}

    def plan(place: Place) -> Planned:
        origin = classifier_lineage(
            pretraining[place.arm], patch_grids.fingerprint, patch, augmentation, model, recipe
        )
        search = Search(place.arm, place.labeled_frac, origin, tune)
        settings = search.settings_among(found)
        tuned = recipe.model_copy(update={**settings, "tuned": sorted(settings)})
        return Planned(
            place,
            classifier_lineage(
                pretraining[place.arm], patch_grids.fingerprint, patch, augmentation, model, tuned
            ),
        )

    planned = [plan(place) for place in grid(experiment)]
    _tell_settings(planned)
    return to_table(run_cells(planned, results, project, compute))


def _tell_settings(planned: list[Planned]) -> None:
    """Say which values the tuning gave to which cells."""
    for place, tuned in {
        (cell.place.arm, cell.place.labeled_frac): cell.origin["tuned"] for cell in planned
    }.items():
        values = ", ".join(f"{name} = {value:.3g}" for name, value in tuned.items())
        arm, fraction = place
        _LOG.info("%s, %g %%: %s", arm, 100 * fraction, values or "not tuned")


def report_experiment(
    cells: pd.DataFrame, results: list[Cell], project: Project, experiment: ExperimentConfig
) -> pd.DataFrame:
    """Make the report of the grid as far as it came; of one pair of cells it shows more.

    Args:
        cells: As `run_experiment` gives them.
        results: All of the recipe, those of the grid among them.
        project: Runs the report.
        experiment: For the grid.

    Returns:
        The cells that failed.
    """
    succeeded = {each.place: each for each in from_table(cells) if each.status != "failed"}
    for seed, fraction in itertools.product(experiment.seeds, experiment.labeled_fracs):
        pair = [succeeded.get(Place(arm, fraction, seed)) for arm in get_args(Arm)]
        if None not in pair:
            versions = _versions([each for each in pair if each], results)
            project.run("report", load_versions=versions, labeled_frac=fraction, seed=seed)
            break
    else:
        _LOG.warning("experiment: no report: there is no seed and fraction that both arms have")
    return cells[cells["status"] == "failed"]


def _versions(pair: list[Outcome], results: list[Cell]) -> dict[str, str]:
    """Which versions of the arms' data sets belong to these cells: not always the newest."""
    versions: dict[str, str] = {}
    for outcome in pair:
        newest = max(cell["version"] for cell in results if outcome.is_of(cell))
        versions |= {f"{outcome.arm}_{name}": newest for name in _OF_A_CELL}
    return versions


def check_complete(failed: pd.DataFrame) -> None:
    """End the run with an error where a cell failed; last, so that all else is done before.

    Raises:
        UserError: It names the cells and why they failed.
    """
    reasons = [f"{outcome.place}: {outcome.error}" for outcome in from_table(failed)]
    if reasons:
        raise UserError(
            f"{len(reasons)} cells failed ({'; '.join(reasons)}); the same command tries these "
            "again, and keeps the others"
        )
