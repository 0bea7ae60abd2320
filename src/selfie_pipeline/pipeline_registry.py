"""The pipelines by name: each stage, the whole, what repeats stages for a table, and what uses
the networks that came out.
"""

from __future__ import annotations

from kedro.pipeline import Pipeline

from selfie_pipeline.pipelines import (
    experiment,
    finetune,
    ingest,
    patch,
    pretrain,
    ratio,
    report,
    tune,
)


def register_pipelines() -> dict[str, Pipeline]:
    """The stages in the order of the flow, `__default__`, which is all of them, studies, uses."""
    stages = {
        "ingest": ingest.create_pipeline(),
        "patch": patch.create_pipeline(),
        "pretrain": pretrain.create_pipeline(),
        "finetune": finetune.create_selfie_pipeline(),
        "baseline": finetune.create_supervised_pipeline(),
        "report": report.create_pipeline(),
    }
    studies = {
        "tune": tune.create_pipeline(),
        "cells": experiment.create_cells_pipeline(),
        "experiment": experiment.create_pipeline(),
        "ratio": ratio.create_pipeline(),
    }
    return {**stages, "__default__": sum(stages.values(), Pipeline([])), **studies}
