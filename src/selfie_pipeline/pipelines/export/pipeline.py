"""Export: classifier, encoder, results → a folder for use outside this project."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from selfie_pipeline.pipelines.export.nodes import export_classifier


def create_pipeline() -> Pipeline:
    """Build the pipeline."""
    return pipeline(
        [
            node(
                export_classifier,
                inputs=[
                    "selfie_classifier",
                    "encoder",
                    "selfie_metrics",
                    "results",
                    "params:export",
                    "params:pretrained_on",
                ],
                outputs="exported_classifier",
                name="export_classifier",
            )
        ]
    )
