"""The time budget of a Kedro run: which runs have one, and from where their steps come."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from kedro.io import DataCatalog
from kedro.io.core import VERSION_FORMAT
from kedro.pipeline import Pipeline

from selfie_pipeline.config import Config, UserError
from selfie_pipeline.locks import lock
from selfie_pipeline.project import starts_runs
from selfie_pipeline.run_summary import INITIAL_WEIGHTS

_LOG = logging.getLogger(__name__)
_KINDS = ("pretrain", "finetune")
_LONGEST_START_S = 60.0
"""Longest time from the creation of a session to the first node of `kedro run`."""


def find_budget(config: Config, params: Mapping[str, Any]) -> str | None:
    """Return the time budget that the run's steps are to follow from, or None.

    Steps among `params`, those that were given with `--params`, override the budget of a recipe.

    Raises:
        UserError: Both steps and a budget are among them.
    """
    steps = [kind for kind in _KINDS if "steps" in params.get(kind, {})]
    if steps and params.get("budget"):
        raise UserError(
            f"budget = {config.budget} sets the steps, but {steps[0]}.steps = "
            f"{getattr(config, steps[0]).steps} is given, too; leave one of them out"
        )
    return None if steps else config.budget


def plan_run(
    config: Config,
    run_params: Mapping[str, Any],
    pipeline: Pipeline,
    catalog: DataCatalog,
    samples: Any,
    started_s: float,
) -> dict[str, dict[str, int]]:
    """Return the steps of a run with a budget: those of an earlier run of the same, or new ones.

    An experiment, a tuning and a ratio train many times, and on a Ray cluster nothing is measured:
    they take the steps that an earlier run on this machine has got from the same budget.

    Args:
        config: Parameters of the run.
        run_params: Kedro's description of the run.
        pipeline: Its pipeline.
        catalog: Its catalog, with the patch grids.
        samples: The usable samples, a DataFrame.
        started_s: From `find_start`.

    Returns:
        Parameters to have in place of the recipe's, by `pretrain` and `finetune`; none if the run
        trains nothing, or if the recipe's stay.

    Raises:
        UserError: The budget is too short, or it was given with `--params` and there is no earlier
            run.
    """
    trainings = _count_trainings(pipeline)
    if not trainings:
        return {}
    borrows = starts_runs(pipeline) or config.compute.engine == "ray"
    from selfie_pipeline.training import budget  # noqa: PLC0415  # torch
    from selfie_pipeline.training.lineage import fingerprint_data  # noqa: PLC0415  # pandas

    grids = catalog.load("patch_grids")
    data = fingerprint_data(grids, samples)
    file = budget.plan_file(catalog.load("budget_plans"), config, data, trainings)
    with lock(file, "budget"):  # two runs at once would measure different speeds
        plan = budget.load_plan(file)
        if plan and (borrows or config.resume == "auto"):
            steps = budget.format_plan(plan)
            _LOG.info("budget of %s: %s, as in an earlier run", config.budget, steps)
        elif borrows:
            problem = f"budget = {config.budget}, but no earlier run on this machine has set the "
            problem += "steps for this budget and these parameters"
            if (run_params["runtime_params"] or {}).get("budget"):
                raise UserError(
                    f"{problem}; run `kedro run` with it first, or give the steps instead"
                )
            _LOG.info("%s: those of the recipe are taken", problem)
        else:
            plan = budget.make_plan(
                config,
                trainings,
                samples,
                grids,
                lambda: time.monotonic() - started_s,
                report="report" in pipeline.all_outputs(),
            )
            budget.save_plan(file, plan)
    return plan


def _count_trainings(pipeline: Pipeline) -> dict[str, int]:
    """Count the trainings of each kind; those that its nodes repeat in other runs count once."""
    outputs = pipeline.all_outputs()
    counts = {
        "pretrain": int("encoder" in outputs),
        "finetune": len(INITIAL_WEIGHTS.keys() & outputs),
    }
    if starts_runs(pipeline):
        counts["finetune"] = counts["finetune"] or 1
        if "params:ratio" in pipeline.inputs():
            counts["pretrain"] = 1
    return {kind: count for kind, count in counts.items() if count}


def find_start(run_id: str) -> float:
    """Return the time of a run's start on the monotonic clock, seconds; called before its nodes.

    That is when its session was created, which is the run's ID. But the session of a notebook may
    be hours old, and the clock may have been set.
    """
    created = datetime.strptime(run_id, VERSION_FORMAT).replace(tzinfo=UTC)
    age_s = (datetime.now(UTC) - created).total_seconds()
    return time.monotonic() - min(max(0.0, age_s), _LONGEST_START_S)
