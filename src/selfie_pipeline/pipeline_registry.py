"""The pipelines by name: each stage, and the whole."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from selfie_pipeline.pipelines import finetune, ingest, patch, pretrain, report


def register_pipelines() -> dict[str, Pipeline]:
    """The stages in the order of the flow, and `__default__`, which is all of them."""
    stages = {
        "ingest": ingest.create_pipeline(),
        "patch": patch.create_pipeline(),
        "pretrain": pretrain.create_pipeline(),
        "finetune": finetune.create_selfie_pipeline(),
        "baseline": finetune.create_supervised_pipeline(),
        "report": report.create_pipeline(),
    }
    return {**stages, "__default__": sum(stages.values(), Pipeline([]))}
