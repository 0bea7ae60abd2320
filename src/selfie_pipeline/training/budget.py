"""A time budget: the steps of pretraining and finetuning that fit into it on this machine.

A few real steps are timed, and the steps are chosen from that. The provenance of a result has the
steps and not the budget: the same steps, given by hand, give the same bits.

Numbers of trainings, and times of a step, are by kind: `pretrain`, `finetune` or both.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
from pydantic import NonNegativeInt, TypeAdapter

from selfie_pipeline.atomic_write import atomic_write
from selfie_pipeline.config import Config, TrainingConfig, UserError, parse_duration
from selfie_pipeline.provenance import dump_configuration, flatten, hash_json
from selfie_pipeline.training.data.batches import PatchGridStore, open_windows
from selfie_pipeline.training.device import find_device
from selfie_pipeline.training.finetuning import HELD_OUT_SAMPLES
from selfie_pipeline.training.speed import measure_speed

_LOG = logging.getLogger(__name__)
Plan = dict[str, dict[str, int]]
"""The parameters that a budget sets: `steps` and `warmup_steps` of `pretrain` and `finetune`."""
_PLAN: TypeAdapter[Plan] = TypeAdapter(dict[str, dict[str, NonNegativeInt]])

EPOCHS = 150
"""Passes over its labels in which a finetuning learns them (docs/budget.md)."""
_REPORT_S = 8.0
"""Time for Python's start and the report, seconds (docs/budget.md)."""
_MEASURED_SHARE, _LONGEST_MEASURED_S = 0.02, 30.0
"""Time that steps of one kind are timed for: a fraction of the budget, at most so many seconds."""


def plan_file(folder: Path, config: Config, data: str, trainings: Mapping[str, int]) -> Path:
    """Return the file of the plan for these parameters and trainings, which may not exist yet.

    Args:
        folder: Folder of the plans.
        config: Parameters of the run. Its seeds and `pretrain.weights` have no influence: all seeds
            and starts get the same steps.
        data: Fingerprint of the data.
        trainings: Number of the run's trainings by kind: `pretrain`, `finetune` or both.
    """
    names = ("patch", "augmentation", "model", "pretrain", "finetune")
    pretrain = config.pretrain.model_copy(update={"seed": 0, "weights": None})
    same_steps = config.model_copy(update={"pretrain": pretrain})
    settings = dump_configuration(**{name: getattr(same_steps, name) for name in names})
    device = find_device(config.compute)
    others = {"budget": config.budget, "labeled_frac": config.labeled_frac, "data": data}
    key = hash_json(settings | others | {"device": device.type, "precision": device.precision})
    counts = "".join(f"-{kind}-{count}" for kind, count in sorted(trainings.items()))
    return folder / f"{key[:16]}{counts}.json"


def load_plan(file: Path) -> Plan:
    """Return the plan in a file from `plan_file`, or the latest for more trainings; else none."""
    key, wanted = _parse_name(file)
    found = file.parent.glob(f"{key}-*.json")
    for path in sorted(found, key=lambda path: (path != file, -path.stat().st_mtime_ns)):
        if _parse_name(path)[1] >= wanted and (plan := _read_plan(path)):
            return plan
    return {}


def _read_plan(file: Path) -> Plan:
    """Return the plan in a file; none, with a warning, if it is damaged."""
    try:
        return _PLAN.validate_json(file.read_bytes())
    except ValueError as error:
        _LOG.warning("%s is not used: %s", file, " ".join(str(error).split()))
        return {}


def _parse_name(file: Path) -> tuple[str, Counter[str]]:
    """Return the key and the trainings that the name of a plan's file has."""
    key, *rest = file.stem.split("-")
    return key, Counter(dict(zip(rest[::2], map(int, rest[1::2]), strict=True)))


def make_plan(
    config: Config,
    trainings: Mapping[str, int],
    samples: pd.DataFrame,
    grids: PatchGridStore,
    elapsed_s: Callable[[], float],
    *,
    report: bool,
) -> Plan:
    """Measure the speed of this machine, and choose the steps so that the run ends in time.

    `elapsed_s` returns the time since the run's start; `report` is True if the run makes the report
    as well.

    Raises:
        UserError: The budget is too short.
    """
    budget_s = parse_duration(str(config.budget))
    images = open_windows(grids, config.patch, config.augmentation)
    limit_s = min(_MEASURED_SHARE * budget_s, _LONGEST_MEASURED_S)
    if find_device(config.compute).type == "cuda":
        # The first time it compiles the networks and tries kernels, for all of the run's trainings.
        measure_speed(config, trainings, samples, images, limit_s=0.0)
    speed = measure_speed(config, trainings, samples, images, limit_s)
    train, test = (int((samples["split"] == split).sum()) for split in ("train", "test"))
    labels = round(config.labeled_frac * train)
    scored = test + 2 * min(HELD_OUT_SAMPLES, train - labels)
    other_s = report * _REPORT_S / speed.cpu_share
    other_s += sum(n * speed.first_s[kind] for kind, n in trainings.items())
    other_s += trainings.get("finetune", 0) * scored * speed.score_s
    left_s = budget_s - elapsed_s() - other_s
    return choose_steps(config, trainings, labels, speed.step_s, left_s)


def choose_steps(
    config: Config,
    trainings: Mapping[str, int],
    labels: int,
    step_s: Mapping[str, float],
    left_s: float,
) -> Plan:
    """Share the time: finetuning until it converges, at most half of it; the rest pretraining.

    A finetuning converges in the recipe's steps, or in `EPOCHS` passes over its `labels` if these
    are more. Without a pretraining it may have all the time, `left_s`, but needs no more steps than
    that.

    Raises:
        UserError: The budget is too short for one row of a training's history.
    """
    recipes: dict[str, TrainingConfig] = {kind: getattr(config, kind) for kind in trainings}
    cost_s = {kind: n * step_s[kind] for kind, n in trainings.items()}  # of a step of all of them
    other_s = parse_duration(str(config.budget)) - left_s
    least_s = len(recipes) * max(cost_s[kind] * recipes[kind].log_every for kind in recipes)
    if left_s < least_s:
        raise UserError(
            f"budget = {config.budget} is too short: {max(0, left_s):.0f} s of it are left for "
            f"training; allowed on this machine: about {math.ceil(other_s + least_s)}s or more"
        )
    steps, shortage = {}, ""
    if "finetune" in recipes:
        enough = max(config.finetune.steps, EPOCHS * labels // config.finetune.batch_size)
        steps["finetune"] = min(enough, int(left_s / len(recipes) / cost_s["finetune"]))
        if steps["finetune"] < enough:
            minutes = math.ceil((other_s + len(recipes) * enough * cost_s["finetune"]) / 60)
            shortage = f"; finetuning may need {enough:,} steps to converge: budget={minutes}min"
        left_s -= steps["finetune"] * cost_s["finetune"]
    if "pretrain" in recipes:
        steps["pretrain"] = int(left_s / cost_s["pretrain"])
    plan = {kind: _set_steps(recipes[kind], steps[kind]) for kind in recipes}
    _LOG.info(
        "budget of %s: %s (%s; %.0f s for all else)%s",
        config.budget,
        format_plan(plan),
        ", ".join(f"{kind} {step_s[kind]:.3g} s a step" for kind in recipes),
        other_s,
        shortage,
    )
    return plan


def _set_steps(recipe: TrainingConfig, steps: int) -> dict[str, int]:
    """Return the parameters of a training; if it is short, its warm-up is in proportion."""
    warmup = min(recipe.warmup_steps, recipe.warmup_steps * steps // recipe.steps)
    return {"steps": steps, "warmup_steps": warmup}


def format_plan(plan: Plan) -> str:
    """Return a plan as `--params` takes it."""
    return ",".join(f"{key}={value}" for key, value in flatten(plan))


def save_plan(file: Path, plan: Plan) -> None:
    """Save a plan for runs that are resumed or repeated."""
    with atomic_write(file) as partial:
        partial.write_text(json.dumps(plan), "utf-8")
