"""Pretraining: patch grids → encoder."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from selfie_pipeline.pipelines.pretrain.nodes import pretrain_encoder


def create_pipeline() -> Pipeline:
    """Build the pipeline."""
    return pipeline(
        [
            node(
                pretrain_encoder,
                inputs=[
                    "patch_grids",
                    "usable_samples",
                    "pretrain_checkpoints",
                    "params:patch",
                    "params:augmentation",
                    "params:model",
                    "params:pretrain",
                    "params:compute",
                    "params:resume",
                    "params:tracking.tensorboard",
                ],
                outputs=["encoder", "pretrain_history"],
                name="pretrain_encoder",
            )
        ]
    )
