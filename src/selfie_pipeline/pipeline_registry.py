"""Registry of the project's pipelines."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from selfie_pipeline.pipelines.embed import pipeline as embed
from selfie_pipeline.pipelines.experiment import pipeline as experiment
from selfie_pipeline.pipelines.export import pipeline as export
from selfie_pipeline.pipelines.finetune import pipeline as finetune
from selfie_pipeline.pipelines.ingest import pipeline as ingest
from selfie_pipeline.pipelines.patch import pipeline as patch
from selfie_pipeline.pipelines.predict import pipeline as predict
from selfie_pipeline.pipelines.pretrain import pipeline as pretrain
from selfie_pipeline.pipelines.ratio import pipeline as ratio
from selfie_pipeline.pipelines.report import pipeline as report
from selfie_pipeline.pipelines.suggest import pipeline as suggest
from selfie_pipeline.pipelines.tune import pipeline as tune


def register_pipelines() -> dict[str, Pipeline]:
    """Return all pipelines by name: the stages, their sum `__default__`, and the others."""
    stages = {
        "ingest": ingest.create_pipeline(),
        "patch": patch.create_pipeline(),
        "pretrain": pretrain.create_pipeline(),
        "finetune": finetune.create_selfie_pipeline(),
        "baseline": finetune.create_supervised_pipeline(),
        "report": report.create_pipeline(),
    }
    return {
        **stages,
        "__default__": sum(stages.values(), Pipeline([])),
        "tune": tune.create_pipeline(),
        "cells": experiment.create_cells_pipeline(),
        "experiment": experiment.create_pipeline(),
        "ratio": ratio.create_pipeline(),
        "predict": predict.create_pipeline(),
        "embed": embed.create_pipeline(),
        "export": export.create_pipeline(),
        "suggest": suggest.create_pipeline(),
    }
