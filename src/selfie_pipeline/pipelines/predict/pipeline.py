"""Prediction: image files → predictions, contact sheet."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from selfie_pipeline.pipelines.predict.nodes import classify_files, draw_contact_sheet


def create_pipeline() -> Pipeline:
    """Build the pipeline."""
    return pipeline(
        [
            node(
                classify_files,
                inputs=[
                    "chosen_classifier",
                    "params:images",
                    "params:predict",
                    "params:compute",
                    "predict_checkpoints",
                    "params:resume",
                ],
                outputs=["image_predictions", "unreadable_images", "uncertain_images"],
                name="classify_files",
            ),
            node(
                draw_contact_sheet,
                inputs="uncertain_images",
                outputs="contact_sheet",
                name="draw_contact_sheet",
            ),
        ]
    )
