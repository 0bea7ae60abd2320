"""Tests of the registry: which pipelines it builds, and what it imports for them."""

import subprocess
import sys
from pathlib import Path

import pytest
from kedro.framework.project import pipelines
from kedro.framework.startup import bootstrap_project

from selfie_pipeline.pipeline_registry import (
    PIPELINE_NAMES,
    STAGES,
    create_pipeline,
    register_pipelines,
)

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _configured():
    bootstrap_project(REPOSITORY)
    yield
    pipelines.set_requested(None)


def test_all_pipelines_are_built_if_none_is_requested():
    assert set(register_pipelines()) == set(PIPELINE_NAMES)


def test_only_requested_pipelines_are_built():
    pipelines.set_requested(["ingest", "report", "unknown"])

    assert set(register_pipelines()) == {"ingest", "report"}


def test_the_default_is_the_sum_of_the_stages():
    nodes = {node.name for stage in STAGES for node in create_pipeline(stage).nodes}

    assert {node.name for node in create_pipeline("__default__").nodes} == nodes


def modules_imported_by(pipeline: str) -> set[str]:
    """Return the modules that the pipeline, and the check of the labels before it, import."""
    code = f"""
import sys
import selfie_pipeline.label_check
from selfie_pipeline.pipeline_registry import create_pipeline
create_pipeline({pipeline!r})
print(*sys.modules)
"""
    command = [sys.executable, "-c", code]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize(
    ("pipeline", "libraries"),
    [
        ("ingest", {"torch", "matplotlib.pyplot", "optuna"}),
        ("pretrain", {"sklearn", "scipy.stats", "matplotlib.pyplot", "optuna"}),
        ("experiment", {"sklearn", "scipy.stats", "matplotlib.pyplot", "optuna"}),
    ],
)
def test_a_stage_does_not_import_what_others_need(pipeline, libraries):
    assert not libraries & modules_imported_by(pipeline)
