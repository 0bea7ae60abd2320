"""From raw files to a checked table of samples."""

from selfie_pipeline.pipelines.ingest.pipeline import create_pipeline

__all__ = ["create_pipeline"]
