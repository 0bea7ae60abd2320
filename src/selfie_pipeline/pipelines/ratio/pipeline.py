"""Ratio of unlabeled to labeled images: encoders of fewer images → their cells → report."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from selfie_pipeline.pipelines.ratio.nodes import run_ratio


def create_pipeline() -> Pipeline:
    """Build the pipeline."""
    return pipeline(
        [
            node(
                run_ratio,
                inputs=[
                    "encoder",
                    "project",
                    "params:patch",
                    "params:augmentation",
                    "params:model",
                    "params:pretrain",
                    "params:ratio",
                ],
                outputs=None,
                name="run_ratio",
            )
        ]
    )
