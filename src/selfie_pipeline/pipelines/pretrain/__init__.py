"""From patch grids to an encoder, without labels."""

from selfie_pipeline.pipelines.pretrain.pipeline import create_pipeline

__all__ = ["create_pipeline"]
