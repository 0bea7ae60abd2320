"""Ingestion: raw files → samples."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from selfie_pipeline.pipelines.ingest.nodes import list_samples


def create_pipeline() -> Pipeline:
    """Build the pipeline."""
    return pipeline(
        [
            node(
                list_samples,
                inputs="params:data",
                outputs=["samples", "sample_counts"],
                name="list_samples",
            )
        ]
    )
