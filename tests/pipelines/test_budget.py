"""Runs with a time budget, whose steps are those of an earlier run's plan."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from selfie_pipeline.config import Config, load_config
from selfie_pipeline.pipeline_registry import create_pipeline
from selfie_pipeline.run_budget import plan_run
from selfie_pipeline.training.budget import Plan, load_plan, plan_file, save_plan

PLAN: Plan = {
    "pretrain": {"steps": 3, "warmup_steps": 0},
    "finetune": {"steps": 5, "warmup_steps": 2},
}
BUDGET = "--params=budget=2min"


@pytest.fixture
def prepared(fresh: Any) -> Any:
    """Return a project with patch grids."""
    fresh.succeed("--pipelines=ingest,patch")
    return fresh


def load(project: Any) -> tuple[Config, Any]:
    """Return the parameters and the catalog of runs with `BUDGET`."""
    with project._session("budget=2min") as session:
        context = session.load_context()
        return load_config(context.config_loader["parameters"]), context.catalog


def find_file(project: Any, **trainings: int) -> Path:
    """Return the file of the plan of runs with `BUDGET`; by default, of all stages."""
    config, catalog = load(project)
    trainings = trainings or {"pretrain": 1, "finetune": 2}
    fingerprint = catalog.load("patch_grids").fingerprint
    return project.path / plan_file(catalog.load("budget_plans"), config, fingerprint, trainings)


def steps(project: Any, name: str, kind: str) -> int:
    """Return the steps of a training, by the provenance of what came out."""
    recorded: int = project.load(name).provenance["configuration"][kind]["steps"]
    return recorded


def test_a_repeated_run_keeps_its_steps_which_give_the_same_bits_by_hand(prepared: Any) -> None:
    save_plan(find_file(prepared), PLAN)

    prepared.succeed("--pipelines=pretrain,finetune,baseline", BUDGET)
    planned = [prepared.load(name).digest() for name in ("encoder", "selfie_classifier")]

    assert steps(prepared, "encoder", "pretrain") == 3
    assert steps(prepared, "supervised_classifier", "finetune") == 5
    assert "2min" not in str(prepared.load("encoder").provenance)
    prepared.succeed(
        "--pipelines=pretrain,finetune",
        "--params=pretrain.steps=3,pretrain.warmup_steps=0,finetune.steps=5,finetune.warmup_steps=2",
    )
    by_hand = [prepared.load(name).digest() for name in ("encoder", "selfie_classifier")]
    assert planned == by_hand


def test_the_steps_are_set_as_soon_as_the_samples_are_known(prepared: Any) -> None:
    save_plan(find_file(prepared), PLAN)

    prepared.succeed("--pipelines=ingest,patch,pretrain", BUDGET)

    assert steps(prepared, "encoder", "pretrain") == 3


def test_an_experiment_takes_the_steps_of_the_run_before_it(prepared: Any) -> None:
    grid = ",experiment.labeled_fracs=[0.05],experiment.seeds=[1]"
    prepared.succeed("--pipelines=pretrain")
    error = prepared.refuse("--pipeline=experiment", BUDGET)
    assert error == (
        "Error: budget = 2min, but no earlier run on this machine has set the steps for this "
        "budget and these parameters; run `kedro run` with it first, or give the steps instead"
    )
    # Of a pretraining alone it has no steps of finetunings to take.
    save_plan(find_file(prepared, pretrain=1), {"pretrain": PLAN["pretrain"]})
    assert prepared.refuse("--pipeline=experiment", BUDGET) == error
    save_plan(find_file(prepared), PLAN)

    prepared.succeed("--pipeline=experiment", BUDGET + grid)

    assert (
        prepared.load("selfie_metrics", "seed=1")["provenance"]["configuration"]["finetune"][
            "steps"
        ]
        == 5
    )


def test_a_new_plan_is_measured_and_saved(prepared: Any) -> None:
    config, catalog = load(prepared)
    samples = catalog.load("usable_samples")
    run = {"runtime_params": {"budget": "2min"}}
    started_s = time.monotonic()

    def plan(stage: str, config: Config = config) -> Plan:
        return plan_run(config, run, create_pipeline(stage), catalog, samples, started_s)

    both = plan("__default__")

    assert both.keys() == {"pretrain", "finetune"}
    assert min(part["steps"] for part in both.values()) > 4
    assert load_plan(find_file(prepared)) == both
    assert plan("__default__") == plan("finetune") == both
    assert plan("patch") == {}
    anew = plan("pretrain", config.model_copy(update={"resume": "never"}))
    assert anew.keys() == {"pretrain"}
    assert load_plan(find_file(prepared, pretrain=1)) == anew
    assert load_plan(find_file(prepared)) == both
    assert plan("__default__") == both


@pytest.mark.parametrize("stages", ["pretrain", "__default__"])
def test_too_short_a_budget_is_refused(prepared: Any, stages: str) -> None:
    error = prepared.refuse(f"--pipelines={stages}", "--params=budget=0.1s")

    assert "budget = 0.1s is too short: 0 s of it are left" in error
