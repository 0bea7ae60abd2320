"""How much unlabeled data it takes: the experiment once more for encoders that saw fewer images."""

from selfie_pipeline.pipelines.ratio.pipeline import create_pipeline

__all__ = ["create_pipeline"]
