"""Export of each arm: classifier, encoder, results → a folder for use outside this project."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from selfie_pipeline.pipelines.export.nodes import export_classifier


def create_selfie_pipeline() -> Pipeline:
    """The classifier that started from the pretrained stages, and its encoder."""
    return _create_export("selfie", "classifier", ["encoder"])


def create_weights_pipeline() -> Pipeline:
    """The classifier that started from given weights."""
    return _create_export("weights", "weights_classifier", [])


def create_supervised_pipeline() -> Pipeline:
    """The classifier that started from scratch."""
    return _create_export("supervised", "supervised_classifier", [])


def _create_export(arm: str, exported: str, encoder: list[str]) -> Pipeline:
    inputs = [f"{arm}_classifier", f"{arm}_metrics", "results"]
    return pipeline(
        [
            node(
                export_classifier,
                inputs=[*inputs, "params:export", "params:pretrained_on", *encoder],
                outputs=f"exported_{exported}",
                name=f"export_{exported}",
            )
        ]
    )
