"""From labels, with and without the encoder, to classifiers and their scores."""

from selfie_pipeline.pipelines.finetune.pipeline import (
    create_selfie_pipeline,
    create_supervised_pipeline,
)

__all__ = ["create_selfie_pipeline", "create_supervised_pipeline"]
