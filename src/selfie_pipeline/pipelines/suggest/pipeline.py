"""Suggestion: classifier, encoder, patch grids → images to label next, contact sheet."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from selfie_pipeline.pipelines.suggest.nodes import suggest_images


def create_pipeline() -> Pipeline:
    """Build the pipeline."""
    return pipeline(
        [
            node(
                suggest_images,
                inputs=[
                    "selfie_classifier",
                    "encoder",
                    "usable_samples",
                    "labeled_samples",
                    "patch_grids",
                    "params:patch",
                    "params:augmentation",
                    "params:suggest",
                    "params:compute",
                    "params:seed",
                ],
                outputs=["suggestions", "suggestions_sheet"],
                name="suggest_images",
            )
        ]
    )
