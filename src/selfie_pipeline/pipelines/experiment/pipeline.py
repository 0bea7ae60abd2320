"""Experiment: encoder and labels → cells of the grid → report."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from selfie_pipeline.pipelines.experiment.nodes import (
    check_complete,
    report_experiment,
    run_experiment,
)

_RUN = node(
    run_experiment,
    inputs=[
        "encoder",
        "usable_samples",
        "patch_grids",
        "results",
        "best_settings",
        "project",
        "params:patch",
        "params:augmentation",
        "params:model",
        "params:finetune",
        "params:tune",
        "params:experiment",
        "params:compute",
        "params:weights",
    ],
    outputs="experiment_cells",
    name="run_experiment",
)


def create_cells_pipeline() -> Pipeline:
    """Build the pipeline of the cells alone."""
    check = node(check_complete, inputs="experiment_cells", outputs=None, name="check_cells")
    return pipeline([_RUN, check])


def create_pipeline() -> Pipeline:
    """Build the pipeline of the cells and their report."""
    report = node(
        report_experiment,
        inputs=["experiment_cells", "results", "project", "params:experiment"],
        outputs=None,
        name="report_experiment",
    )
    return pipeline([_RUN, report])
