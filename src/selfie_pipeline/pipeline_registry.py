"""Registry of the project's pipelines.

Their modules are imported when Kedro asks for them, so that a run waits only for the libraries that
it uses.
"""

from __future__ import annotations

import importlib

from kedro.framework import project
from kedro.pipeline import Pipeline

STAGES = ("ingest", "patch", "pretrain", "finetune", "baseline", "report")
"""The pipelines whose sum is `__default__`, in order."""
_FACTORIES = {
    "ingest": ("ingest", "create_pipeline"),
    "patch": ("patch", "create_pipeline"),
    "pretrain": ("pretrain", "create_pipeline"),
    "finetune": ("finetune", "create_selfie_pipeline"),
    "baseline": ("finetune", "create_supervised_pipeline"),
    "report": ("report", "create_pipeline"),
    "finetune_weights": ("finetune", "create_weights_pipeline"),
    "tune": ("tune", "create_pipeline"),
    "cells": ("experiment", "create_cells_pipeline"),
    "experiment": ("experiment", "create_pipeline"),
    "ratio": ("ratio", "create_pipeline"),
    "predict": ("predict", "create_pipeline"),
    "embed": ("embed", "create_pipeline"),
    "export": ("export", "create_selfie_pipeline"),
    "export_baseline": ("export", "create_supervised_pipeline"),
    "export_weights": ("export", "create_weights_pipeline"),
    "suggest": ("suggest", "create_pipeline"),
}
"""The package in `pipelines/` and the function of its `pipeline.py` that build each pipeline."""
PIPELINE_NAMES = ("__default__", *_FACTORIES)


def create_pipeline(name: str) -> Pipeline:
    """Build one pipeline by its name, which is of `PIPELINE_NAMES`."""
    if name == "__default__":
        return sum(map(create_pipeline, STAGES), Pipeline([]))
    package, factory = _FACTORIES[name]
    module = importlib.import_module(f"selfie_pipeline.pipelines.{package}.pipeline")
    pipeline: Pipeline = getattr(module, factory)()
    return pipeline


def register_pipelines() -> dict[str, Pipeline]:
    """Return the pipelines that Kedro asks for, or all, by name."""
    requested = project.pipelines._requested_pipelines  # as Kedro's find_pipelines does
    names = PIPELINE_NAMES if requested is None else set(requested) & set(PIPELINE_NAMES)
    return {name: create_pipeline(name) for name in names}
