"""From an encoder and labels to finetuning's best parameters, on held-out training samples."""

from selfie_pipeline.pipelines.tune.pipeline import create_pipeline

__all__ = ["create_pipeline"]
