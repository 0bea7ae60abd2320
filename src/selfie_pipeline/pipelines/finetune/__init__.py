"""From labels, with an encoder, given weights or neither, to classifiers and their scores."""

from selfie_pipeline.pipelines.finetune.pipeline import (
    create_selfie_pipeline,
    create_supervised_pipeline,
    create_weights_pipeline,
)

__all__ = ["create_selfie_pipeline", "create_supervised_pipeline", "create_weights_pipeline"]
