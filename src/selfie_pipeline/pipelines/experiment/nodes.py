"""Nodes of the pipelines `cells` and `experiment`."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

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
from selfie_pipeline.evaluation.selection import Cell
from selfie_pipeline.evaluation.tables import build_results_table
from selfie_pipeline.initial_weights import load_initial_weights
from selfie_pipeline.pipelines.experiment.cells import (
    CellKey,
    CellOutcome,
    PlannedCell,
    cell_keys,
    outcomes_from_table,
    remove_leftover_checkpoints,
    run_cells,
)
from selfie_pipeline.project import CellsFailedError, Project
from selfie_pipeline.report.text import terminal_table
from selfie_pipeline.training.finetuning import finetuning_bytes
from selfie_pipeline.training.lineage import (
    classifier_lineage,
    fingerprint_data,
    initial_weights_lineage,
)
from selfie_pipeline.training.search import Search, SearchResult
from selfie_pipeline.weights import Weights

_PAIR: tuple[Arm, Arm] = ("supervised", "selfie")
_LOG = logging.getLogger(__name__)


def run_experiment(
    encoder: Weights,
    samples: pd.DataFrame,
    patch_grids: PatchGrids,
    results: list[Cell],
    best_settings: list[SearchResult],
    project: Project,
    patch: PatchConfig,
    augmentation: AugmentationConfig,
    model: ModelConfig,
    recipe: FinetuneConfig,
    tune: TuneConfig,
    experiment: ExperimentConfig,
    compute: ComputeConfig,
    weights: str | None,
) -> pd.DataFrame:
    """Run the cells of the grid that have no result yet, with the values that the tuning found.

    Returns:
        One row per cell with its outcome.

    Raises:
        UserError: An arm's initial weights are missing, see `load_initial_weights`; or only some of
            the arms and fractions have tuned values.
    """
    data = fingerprint_data(patch_grids, samples)
    initial = load_initial_weights(experiment.arms, encoder, weights, project)

    @cache
    def plan(arm: Arm, labeled_frac: float) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the lineage and the parameters that the cells of all seeds share."""
        pretraining = initial_weights_lineage(initial[arm])
        build_lineage = partial(classifier_lineage, pretraining, data, patch, augmentation, model)
        search = Search(arm, labeled_frac, build_lineage(recipe), tune)
        settings = search.find_settings(best_settings)
        tuned = recipe.model_copy(update={**settings, "tuned": sorted(settings)})
        own = {"pretrain": {"weights": weights}} if arm == "weights_selfie" else {}
        return build_lineage(tuned), own

    planned = [PlannedCell(key, *plan(key.arm, key.labeled_frac)) for key in cell_keys(experiment)]
    _log_tuned_values(planned, best_settings)
    if len({tuple(cell.lineage["tuned"]) for cell in planned}) > 1:
        raise UserError(
            "the tuning has values for some of the arms and fractions only, so their results can't "
            "be compared; run `kedro run --pipeline=tune` with the same experiment.arms and "
            "experiment.labeled_fracs; complete searches are not repeated, and where all trials "
            "diverged, a warning says what to change"
        )
    cell_bytes = finetuning_bytes(model, recipe, patch)
    outcomes = run_cells(planned, results, project, compute, cell_bytes)
    pairs = zip(planned, outcomes, strict=True)
    remove_leftover_checkpoints((cell for cell, row in pairs if row.status == "kept"), project)
    return pd.DataFrame(outcomes)


def _log_tuned_values(planned: list[PlannedCell], found: Sequence[SearchResult]) -> None:
    """Log the tuned values of each arm and labeled fraction; warn if they are of other trainings.

    `found` has the results of all searches.
    """
    searched = {(result["arm"], result["labeled_frac"]) for result in found}
    for (arm, fraction), tuned in {
        (cell.key.arm, cell.key.labeled_frac): cell.lineage["tuned"] for cell in planned
    }.items():
        values = ", ".join(f"{name} = {value:.3g}" for name, value in tuned.items())
        is_outdated = not tuned and (arm, fraction) in searched
        if is_outdated:
            values = "not those of the tuning, which had other images, parameters or another "
            values += "encoder; run `kedro run --pipeline=tune` again"
        _LOG.log(
            logging.WARNING if is_outdated else logging.INFO,
            "finetuning parameters of %s with %g %% of the labels: %s",
            arm,
            100 * fraction,
            values or "not tuned",
        )


def report_experiment(
    cells: pd.DataFrame, results: list[Cell], project: Project, experiment: ExperimentConfig
) -> None:
    """Create the report of all successful cells; its details are those of the first pair.

    `cells` is the table of `run_experiment`; `results` has all results of the recipe.

    Raises:
        CellsFailedError: A cell failed.
        UserError: A result is no longer in the catalog.
    """
    succeeded = {
        outcome.key: outcome for outcome in outcomes_from_table(cells) if outcome.status != "failed"
    }
    for seed, fraction in itertools.product(experiment.seeds, experiment.labeled_fracs):
        keys = [CellKey(arm, fraction, seed) for arm in _PAIR]
        if all(key in succeeded for key in keys):
            pair = [_find_result(succeeded[key], results) for key in keys]
            versions = {f"{cell['arm']}_metrics": cell["version"] for cell in pair}
            project.run("report", load_versions=versions, labeled_frac=fraction, seed=seed)
            break
    else:
        _LOG.warning("experiment: no report, because no seed and fraction has results of both arms")
        if succeeded:
            found = [_find_result(outcome, results) for outcome in succeeded.values()]
            _LOG.info("%s", terminal_table(build_results_table(found)))
    check_complete(cells)


def _find_result(outcome: CellOutcome, results: list[Cell]) -> Cell:
    """Return the latest result of a cell; there may be later ones with other parameters.

    Raises:
        UserError: There is none any more.
    """
    matching = [result for result in results if outcome.matches(result)]
    if not matching:
        raise UserError(
            f"the result of {outcome.key} is damaged or no longer in the catalog; run the "
            "experiment again: it keeps the other cells"
        )
    return max(matching, key=lambda result: str(result["version"]))


def check_complete(cells: pd.DataFrame) -> None:
    """End the run with an error if a cell failed.

    Raises:
        CellsFailedError: A cell failed; the message names all failed cells and their errors.
    """
    failures = [
        f"{outcome.key}: {outcome.error}"
        for outcome in outcomes_from_table(cells)
        if outcome.status == "failed"
    ]
    if failures:
        raise CellsFailedError(failures)
