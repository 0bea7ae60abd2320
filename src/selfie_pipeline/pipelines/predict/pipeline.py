"""Prediction: image files → predictions, contact sheet."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from selfie_pipeline.pipelines.predict.nodes import classify_files


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
                outputs=["image_predictions", "unreadable_images", "contact_sheet"],
                name="classify_files",
            )
        ]
    )
