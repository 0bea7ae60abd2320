"""Report: results → table, figures, HTML page."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from selfie_pipeline.pipelines.report.nodes import (
    solve_puzzles,
    tabulate_results,
    write_report,
)


def create_pipeline() -> Pipeline:
    """Build the pipeline."""
    return pipeline(
        [
            node(
                solve_puzzles,
                inputs=[
                    "encoder",
                    "selfie_metrics",
                    "usable_samples",
                    "patch_grids",
                    "params:patch",
                    "params:augmentation",
                    "params:compute",
                ],
                outputs="puzzles",
                name="solve_puzzles",
            ),
            node(
                tabulate_results,
                # This run's metrics are inputs so that the results are read after they are saved.
                inputs=[
                    "results",
                    "selfie_metrics",
                    "supervised_metrics",
                    "params:experiment",
                    "params:weights",
                ],
                outputs=["selection", "results_table", "results_markdown"],
                name="tabulate_results",
            ),
            node(
                write_report,
                inputs=[
                    "selection",
                    "results_table",
                    "data_check",
                    "usable_samples",
                    "selfie_metrics",
                    "selfie_predictions",
                    "puzzles",
                    "pretrain_history",
                    "selfie_history",
                    "supervised_history",
                    "patch_grids",
                    "params:patch",
                    "params:augmentation",
                ],
                outputs=[
                    "report",
                    "accuracy_over_labels",
                    "variance_over_labels",
                    "gain_over_ratio",
                    "training_curves",
                    "puzzle_picture",
                    "confusion_matrix",
                    "sample_errors",
                ],
                name="write_report",
            ),
        ]
    )
