"""From a classifier to files that others can use."""

from selfie_pipeline.pipelines.export.pipeline import create_pipeline

__all__ = ["create_pipeline"]
