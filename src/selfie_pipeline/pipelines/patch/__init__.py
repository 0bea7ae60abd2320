"""From raw files to patch grids."""

from selfie_pipeline.pipelines.patch.pipeline import create_pipeline

__all__ = ["create_pipeline"]
