"""From results to tables, figures and a page."""

from selfie_pipeline.pipelines.report.pipeline import create_pipeline

__all__ = ["create_pipeline"]
