"""Suggestion: classifier, encoder, patch grids → images to label next, contact sheet."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from selfie_pipeline.pipelines.suggest.nodes import draw_suggestions, suggest_images


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
                outputs=["suggestions", "suggested_images"],
                name="suggest_images",
            ),
            node(
                draw_suggestions,
                inputs="suggested_images",
                outputs="suggestions_sheet",
                name="draw_suggestions",
            ),
        ]
    )
