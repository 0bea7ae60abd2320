"""From an encoder to one vector an image."""

from selfie_pipeline.pipelines.embed.pipeline import create_pipeline

__all__ = ["create_pipeline"]
