"""From image files and a classifier to predictions."""

from selfie_pipeline.pipelines.predict.pipeline import create_pipeline

__all__ = ["create_pipeline"]
