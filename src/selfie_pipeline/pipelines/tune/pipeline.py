"""The tuning: encoder and labels → the best parameters for each arm and fraction."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from selfie_pipeline.pipelines.tune.nodes import tune_finetuning


def create_pipeline() -> Pipeline:
    """Build the pipeline."""
    return pipeline(
        [
            node(
                tune_finetuning,
                inputs=[
                    "encoder",
                    "usable_samples",
                    "patch_grids",
                    "tuning",
                    "params:patch",
                    "params:augmentation",
                    "params:model",
                    "params:finetune",
                    "params:compute",
                    "params:tune",
                    "params:experiment",
                    "params:resume",
                    "params:weights",
                    "project",
                ],
                outputs=["best_settings", "tuning_trials"],
                name="tune_finetuning",
            )
        ]
    )
