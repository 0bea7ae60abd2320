"""The pipelines by name: each stage, the whole, studies that repeat stages, and uses."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from selfie_pipeline.pipelines import (
    embed,
    experiment,
    export,
    finetune,
    ingest,
    patch,
    predict,
    pretrain,
    ratio,
    report,
    tune,
)


def register_pipelines() -> dict[str, Pipeline]:
    """The stages in the order of the flow, `__default__`, which is all of them, and the others."""
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
    uses = {
        "predict": predict.create_pipeline(),
        "embed": embed.create_pipeline(),
        "export": export.create_pipeline(),
    }
    return {**stages, "__default__": sum(stages.values(), Pipeline([])), **studies, **uses}
