"""Cells of an experiment: their keys, plans and outcomes, and the running of them."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from tqdm import tqdm

from selfie_pipeline.config import Arm, ComputeConfig, ExperimentConfig, UserError
from selfie_pipeline.evaluation.selection import Cell
from selfie_pipeline.project import Project
from selfie_pipeline.training.checkpoints import remove_leftovers
from selfie_pipeline.training.device import find_device
from selfie_pipeline.training.job_runner import run_jobs
from selfie_pipeline.training.jobs import Job, WorkerDiedError
from selfie_pipeline.training.lineage import comparison_key
from selfie_pipeline.training.signals import TrainingInterrupted

_LOG = logging.getLogger(__name__)
Status = Literal["kept", "done", "failed"]
_PIPELINES = {
    "supervised": "baseline",
    "selfie": "finetune",
    "weights": "finetune_weights",
    "weights_selfie": "finetune",  # from another encoder
}


@dataclass(frozen=True)
class CellKey:
    """The position of a cell in the grid."""

    arm: Arm
    labeled_frac: float
    seed: int

    def __str__(self) -> str:
        return f"{self.arm}, {100 * self.labeled_frac:g} %, seed {self.seed}"

    @classmethod
    def of(cls, result: Cell) -> CellKey:
        """Return the position of a result."""
        return cls(result["arm"], result["labeled_frac"], result["seed"])


@dataclass(frozen=True)
class PlannedCell:
    """A cell that the experiment needs.

    Its `lineage` is from `classifier_lineage`; its `params`, nested, are of this arm alone.
    """

    key: CellKey
    lineage: dict[str, Any]
    params: Mapping[str, Any]


@dataclass(frozen=True)
class CellOutcome:
    """The outcome of a cell: a row of the table `experiment_cells`.

    Attributes:
        arm: Arm of the cell.
        labeled_frac: Labeled fraction of the cell.
        seed: Seed of the cell.
        configuration: Comparison key of its result.
        encoder: Digest of its encoder; empty for an arm without one.
        tuned: Values that the tuning found, as JSON.
        status: `kept` if its result existed before.
        seconds: Time that this run spent on it.
        error: Cause of the failure in one line; empty if there was none.
    """

    arm: Arm
    labeled_frac: float
    seed: int
    configuration: str
    encoder: str
    tuned: str
    status: Status
    seconds: float
    error: str

    @property
    def key(self) -> CellKey:
        """The position of its cell in the grid."""
        return CellKey(self.arm, self.labeled_frac, self.seed)

    def matches(self, result: Cell) -> bool:
        """Return whether a result has this key and the same parameters, data and encoder."""
        return (
            self.key == CellKey.of(result)
            and result["configuration"] == self.configuration
            and (result["provenance"]["encoder"] or "") == self.encoder
            and result["provenance"]["tuned"] == json.loads(self.tuned)
        )


def cell_keys(experiment: ExperimentConfig) -> list[CellKey]:
    """Return all keys of the grid, seed by seed and with the arms of a seed next to each other.

    An experiment that ends early therefore has all arms, of all labeled fractions.
    """
    return [
        CellKey(arm, fraction, seed)
        for seed in experiment.seeds
        for fraction in experiment.labeled_fracs
        for arm in experiment.arms
    ]


def run_cells(
    planned: Sequence[PlannedCell],
    results: Sequence[Cell],
    project: Project,
    compute: ComputeConfig,
    cell_bytes: int,
) -> list[CellOutcome]:
    """Run the cells that have no result yet; the failure of one does not stop the others.

    They run in parallel, as far as there is room for them (`cell_bytes` is an estimate of the
    memory that one takes on a CPU), and each reads and writes its own files of the catalog. On a
    cluster, a cell whose process dies is run again, unless it had already saved its result. Among
    the results may be those of other cells.

    Returns:
        One outcome per cell, in the planned order.

    Raises:
        TrainingInterrupted: The user stopped a training; finished cells are kept.
    """
    found: dict[CellKey, list[Cell]] = defaultdict(list)
    for result in results:
        found[CellKey.of(result)].append(result)
    candidates = [_build_outcome(cell, "kept") for cell in planned]
    matching = {each.key: [*filter(each.matches, found[each.key])] for each in candidates}
    outcomes = {each.key: each for each in candidates if matching[each.key]}
    kept = len(outcomes)
    _LOG.info("experiment: %d cells, of which %d already have results", len(planned), kept)
    _warn_of_other_precision([matching[key][-1] for key in outcomes], compute)
    started = time.monotonic()
    run = partial(_run_on_cluster if compute.engine == "ray" else _run_cell, project)

    def run_as_job(cell: PlannedCell, number: int) -> Job[None]:
        _LOG.info("experiment: cell %d of %d: %s", number, len(planned), cell.key)
        try:
            outcome: CellOutcome = yield partial(run, cell)
        except WorkerDiedError as reason:
            outcome = _build_outcome(cell, "failed", 0.0, str(reason))
        outcomes[cell.key] = outcome
        if outcome.error:
            _LOG.error("experiment: %s failed: %s", cell.key, outcome.error)
        _log_progress(outcomes, kept, len(planned), time.monotonic() - started)

    missing = [cell for cell in planned if cell.key not in outcomes]
    jobs = [run_as_job(cell, number) for number, cell in enumerate(missing, kept + 1)]
    run_jobs(jobs, compute, cell_bytes)
    return [outcomes[cell.key] for cell in planned]


def _warn_of_other_precision(kept: Iterable[Cell], compute: ComputeConfig) -> None:
    """Warn if the existing results were computed in another precision than new ones will be."""
    precision = find_device(compute).precision
    stored = Counter(cell["provenance"].get("precision", precision) for cell in kept)
    if others := ", ".join(
        f"{count} in {name}" for name, count in stored.items() if name != precision
    ):
        _LOG.warning(
            "experiment: cells that already have results were computed in another precision "
            "(%s; now %s), so arms may differ by it; set compute.precision",
            others,
            precision,
        )


def _entry_name(key: CellKey, name: str) -> str:
    """Return the name of a catalog entry of a cell's arm; the path depends on its parameters."""
    return f"{key.arm.removeprefix('weights_')}_{name}"


def _load(project: Project, entry: str, cell: PlannedCell) -> Any:
    """Load a catalog entry of a cell, or None if there is no version of it."""
    key = cell.key
    return project.load(
        _entry_name(key, entry),
        labeled_frac=key.labeled_frac,
        seed=key.seed,
        **cell.params,
    )


def _log_progress(
    outcomes: Mapping[CellKey, CellOutcome], kept: int, planned: int, seconds: float
) -> None:
    """Log the number of cells so far and the estimated time for the others."""
    left = planned - len(outcomes)
    failed = sum(outcome.status == "failed" for outcome in outcomes.values())
    _LOG.info(
        "experiment: %d cells done%s, %d left, about %s remaining",
        len(outcomes) - failed,
        f", {failed} failed" if failed else "",
        left,
        tqdm.format_interval(seconds / (len(outcomes) - kept) * left),
    )


def _run_on_cluster(project: Project, cell: PlannedCell) -> CellOutcome:
    """Run a cell in a process of the cluster, possibly for the second time."""
    project.bootstrap()
    result: Cell | None = _load(project, "metrics", cell)
    done = _build_outcome(cell, "done")
    if result is not None and done.matches(result):  # the first process died after saving it
        return done
    return _run_cell(project, cell, compute={"engine": "local"})


def _run_cell(project: Project, cell: PlannedCell, **params: Any) -> CellOutcome:
    """Run the pipeline of a cell's arm with the values that the tuning found."""
    project.bootstrap()
    key, tuned = cell.key, cell.lineage["tuned"]
    recipe = {name.removeprefix("finetune."): value for name, value in tuned.items()}
    started = time.monotonic()
    error = ""
    try:
        outputs = project.run(
            _PIPELINES[key.arm],
            labeled_frac=key.labeled_frac,
            seed=key.seed,
            finetune={**recipe, "tuned": list(recipe)},
            **cell.params,
            **params,
        )
        if not _build_outcome(cell, "done").matches(outputs[_entry_name(key, "metrics")].load()):
            error = "the files in conf/ were changed while the experiment was running"
    except TrainingInterrupted:
        raise
    except UserError as reason:
        error = " ".join(str(reason).split())  # needs no traceback
    except Exception as reason:
        error = f"{type(reason).__name__}: {' '.join(str(reason).split())}"
        _LOG.exception("experiment: %s failed", key)
    seconds = round(time.monotonic() - started, 1)
    return _build_outcome(cell, "failed" if error else "done", seconds, error)


def _build_outcome(
    cell: PlannedCell, status: Status, seconds: float = 0.0, error: str = ""
) -> CellOutcome:
    return CellOutcome(
        **asdict(cell.key),
        configuration=comparison_key(cell.lineage),
        encoder=cell.lineage["encoder"] or "",
        tuned=json.dumps(cell.lineage["tuned"]),
        status=status,
        seconds=seconds,
        error=error,
    )


def remove_leftover_checkpoints(kept: Iterable[PlannedCell], project: Project) -> None:
    """Remove the checkpoints of cells that were killed after they had saved their results.

    Those of a training with other parameters, which may yet be resumed, are kept. A folder is
    looked up in the catalog, which takes a session of Kedro, once for each arm, and then only for
    seeds that have checkpoints, of which there are hardly any.
    """
    seeds: dict[Arm, set[str]] = {}
    for cell in kept:
        arm, seed = cell.key.arm, f"seed_{cell.key.seed}"
        if arm in seeds and seed not in seeds[arm]:
            continue
        folder: Path = _load(project, "checkpoints", cell)
        if arm not in seeds:
            seeds[arm] = {path.parent.name for path in folder.parents[2].glob("*/*/checkpoints-*")}
        remove_leftovers(folder, cell.lineage)


def outcomes_from_table(table: pd.DataFrame) -> list[CellOutcome]:
    """Return the outcomes of a table with one row per cell and the fields of `CellOutcome`."""
    rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    return [CellOutcome(**row) for row in rows]
