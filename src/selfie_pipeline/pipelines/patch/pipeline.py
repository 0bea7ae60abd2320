"""Patching: raw files → patch grids."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from selfie_pipeline.pipelines.patch.data_check import check_data
from selfie_pipeline.pipelines.patch.nodes import cut_patches, list_usable_samples


def create_pipeline() -> Pipeline:
    """Build the pipeline."""
    return pipeline(
        [
            node(
                cut_patches,
                inputs=["samples", "params:data", "params:patch"],
                outputs="patch_grids",
                name="cut_patches",
            ),
            node(
                check_data,
                inputs=["samples", "patch_grids", "params:data"],
                outputs=["duplicates", "data_check", "duplicate_pairs"],
                name="check_data",
            ),
            node(
                list_usable_samples,
                inputs=["samples", "patch_grids", "duplicates", "params:data"],
                outputs=["usable_samples", "unreadable_files"],
                name="list_usable_samples",
            ),
        ]
    )
