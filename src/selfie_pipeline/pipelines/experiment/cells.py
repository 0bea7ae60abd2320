"""The cells of an experiment: which there are, which are to be run, and running them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import pandas as pd
from tqdm import tqdm

from selfie_pipeline.config import Arm, ComputeConfig, ExperimentConfig, UserError
from selfie_pipeline.evaluation.tables import Cell
from selfie_pipeline.project import Project
from selfie_pipeline.training.engine import run_jobs
from selfie_pipeline.training.jobs import Job, WorkerDiedError
from selfie_pipeline.training.lineage import comparison_key
from selfie_pipeline.training.signals import TrainingInterrupted

_LOG = logging.getLogger(__name__)
Status = Literal["kept", "done", "failed"]
_STAGE_OF_ARM = {"supervised": "baseline", "selfie": "finetune"}


@dataclass(frozen=True)
class Place:
    """A cell's place in the grid."""

    arm: Arm
    labeled_frac: float
    seed: int

    def __str__(self) -> str:
        return f"{self.arm}, {100 * self.labeled_frac:g} %, seed {self.seed}"


@dataclass(frozen=True)
class Planned:
    """A cell that the experiment is to have.

    Attributes:
        place: Its place in the grid.
        origin: As `finetune.origin.classifier_lineage` gives it: what its result follows from.
    """

    place: Place
    origin: dict[str, Any]

    def is_result(self, cell: Cell) -> bool:
        """Whether a result is this cell's, made with the same parameters, data and encoder."""
        made = cell["provenance"]
        return (
            Place(cell["arm"], cell["labeled_frac"], cell["seed"]) == self.place
            and cell["configuration"] == comparison_key(self.origin)
            and made["encoder"] == self.origin["encoder"]
            and made["tuned"] == self.origin["tuned"]
        )


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: a row of the table `experiment_cells`.

    Attributes:
        arm: Of the cell.
        labeled_frac: Of the cell.
        seed: Of the cell.
        configuration: As its result has it.
        encoder: As its result has it; empty for the supervised arm.
        status: `kept` where its result was there already.
        seconds: That it took now.
        error: Why it failed, in one line; empty where it did not.
    """

    arm: Arm
    labeled_frac: float
    seed: int
    configuration: str
    encoder: str
    status: Status
    seconds: float
    error: str

    @property
    def place(self) -> Place:
        """Its cell's place in the grid."""
        return Place(self.arm, self.labeled_frac, self.seed)

    def is_of(self, cell: Cell) -> bool:
        """Whether a result is this cell's."""
        return (
            Place(cell["arm"], cell["labeled_frac"], cell["seed"]) == self.place
            and cell["configuration"] == self.configuration
            and (cell["provenance"]["encoder"] or "") == self.encoder
        )


def grid(experiment: ExperimentConfig) -> list[Place]:
    """All places: the two arms of a seed after one another, all fractions of it before the next.

    So an experiment that ends early has whole pairs, of all fractions.
    """
    return [
        Place(arm, fraction, seed)
        for seed in experiment.seeds
        for fraction in experiment.labeled_fracs
        for arm in experiment.arms
    ]


def run_cells(
    planned: Sequence[Planned], results: Sequence[Cell], project: Project, compute: ComputeConfig
) -> list[Outcome]:
    """Run the cells that have no result yet; one that fails does not keep the others from running.

    On a cluster they run side by side, each in this process's stead: it reads and writes the
    catalog's files, of which each cell has its own. One whose process dies is run again, unless
    its result is there: so none is lost, and none is there twice.

    Args:
        planned: All cells.
        results: What there is already, of these and others.
        project: Runs a cell, which saves its own result.
        compute: Parameters.

    Returns:
        One outcome a cell, in the order planned.

    Raises:
        TrainingInterrupted: The person stopped a training; what is done is kept.
    """
    kept = {cell.place for cell in planned if any(map(cell.is_result, results))}
    todo = [cell for cell in planned if cell.place not in kept]
    _LOG.info("experiment: %d cells, of which %d are there", len(planned), len(kept))
    outcomes = {cell.place: _outcome(cell, "kept") for cell in planned if cell.place in kept}
    started = time.monotonic()
    run = partial(_run_elsewhere, project) if compute.engine == "ray" else partial(_run, project)

    def chain(cell: Planned, number: int) -> Job[None]:
        place = cell.place
        _LOG.info("experiment: cell %d of %d: %s", len(kept) + number, len(planned), place)
        try:
            outcome: Outcome = yield partial(run, cell)
        except WorkerDiedError as reason:
            outcome = _outcome(cell, "failed", 0.0, str(reason))
        outcomes[place] = outcome
        if outcome.error:
            _LOG.error("experiment: %s failed: %s", place, outcome.error)
        _tell_progress(outcomes, len(kept), len(planned), time.monotonic() - started)

    run_jobs([chain(cell, number) for number, cell in enumerate(todo, start=1)], compute)
    return [outcomes[cell.place] for cell in planned]


def _tell_progress(
    outcomes: Mapping[Place, Outcome], kept: int, planned: int, seconds: float
) -> None:
    """Say how many cells there are, and when the others will be."""
    left = planned - len(outcomes)
    failed = sum(each.status == "failed" for each in outcomes.values())
    _LOG.info(
        "experiment: %d cells there%s, %d left, %s to go",
        len(outcomes) - failed,
        f", {failed} failed" if failed else "",
        left,
        tqdm.format_interval(seconds / (len(outcomes) - kept) * left),
    )


def _run_elsewhere(project: Project, cell: Planned) -> Outcome:
    """Run a cell in a process that another has started, perhaps for the second time."""
    project.enter()
    place = cell.place
    made: Cell | None = project.load(
        f"{place.arm}_metrics", labeled_frac=place.labeled_frac, seed=place.seed
    )
    if made is not None and cell.is_result(made):  # the process died just after it
        return _outcome(cell, "done")
    return _run(project, cell, compute={"engine": "local"})


def _run(project: Project, cell: Planned, **params: Any) -> Outcome:
    """Run the arm's pipeline for one cell, with the values that the tuning found."""
    place, tuned = cell.place, cell.origin["tuned"]
    recipe = {name.removeprefix("finetune."): value for name, value in tuned.items()}
    started = time.monotonic()
    error = ""
    try:
        project.run(
            _STAGE_OF_ARM[place.arm],
            labeled_frac=place.labeled_frac,
            seed=place.seed,
            finetune={**recipe, "tuned": list(recipe)},
            **params,
        )
    except TrainingInterrupted:
        raise
    except UserError as reason:
        error = " ".join(str(reason).split())  # it says it all
    except Exception as reason:
        error = f"{type(reason).__name__}: {' '.join(str(reason).split())}"
        _LOG.exception("experiment: %s failed", place)
    seconds = round(time.monotonic() - started, 1)
    return _outcome(cell, "failed" if error else "done", seconds, error)


def _outcome(cell: Planned, status: Status, seconds: float = 0.0, error: str = "") -> Outcome:
    return Outcome(
        **asdict(cell.place),
        configuration=comparison_key(cell.origin),
        encoder=cell.origin["encoder"] or "",
        status=status,
        seconds=seconds,
        error=error,
    )


def to_table(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """One row a cell, with the fields of `Outcome`."""
    return pd.DataFrame([asdict(outcome) for outcome in outcomes])


def from_table(table: pd.DataFrame) -> list[Outcome]:
    """The inverse of `to_table`."""
    rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    return [Outcome(**row) for row in rows]
