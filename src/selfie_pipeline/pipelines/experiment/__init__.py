"""From an encoder and labels to a whole table: fractions × seeds × arms."""

from selfie_pipeline.pipelines.experiment.pipeline import create_cells_pipeline, create_pipeline

__all__ = ["create_cells_pipeline", "create_pipeline"]
