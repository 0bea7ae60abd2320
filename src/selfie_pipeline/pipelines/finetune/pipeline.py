"""The arms: one pipeline under several namespaces, from labels to a tested classifier."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from selfie_pipeline.pipelines.finetune.nodes import (
    finetune_classifier,
    initialise,
    read_weights,
    test_classifier,
)
from selfie_pipeline.training.data.subset import draw_labeled_subset

_SUBSET = node(
    draw_labeled_subset,
    inputs=["usable_samples", "params:labeled_frac", "params:seed"],
    outputs="labeled_samples",
    name="draw_labeled_subset",
)
_INITIAL = ["usable_samples", "params:patch", "params:model", "params:finetune", "params:seed"]


def create_selfie_pipeline() -> Pipeline:
    """The arm that starts from the pretrained stages."""
    return _create_arm("selfie", "initialise_from_encoder", ["encoder"])


def create_weights_pipeline() -> Pipeline:
    """The arm that starts from given weights."""
    read = node(
        read_weights, inputs="params:weights", outputs="given_weights", name="read_given_weights"
    )
    return pipeline([read]) + _create_arm("weights", "initialise_from_weights", ["given_weights"])


def create_supervised_pipeline() -> Pipeline:
    """The arm that starts from scratch."""
    return _create_arm("supervised", "initialise_from_scratch", [])


def _create_arm(namespace: str, initialisation: str, start: list[str]) -> Pipeline:
    classifier, history = f"{namespace}_classifier", f"{namespace}_history"
    predictions, metrics = f"{namespace}_predictions", f"{namespace}_metrics"
    parameters = ["params:patch", "params:augmentation", "params:model"]
    arm = pipeline(
        [
            node(
                initialise,
                inputs=[*_INITIAL, *start],
                outputs="initial_classifier",
                name=initialisation,
            ),
            node(
                finetune_classifier,
                inputs=[
                    "initial_classifier",
                    "labeled_samples",
                    "usable_samples",
                    "patch_grids",
                    f"{namespace}_checkpoints",
                    *parameters,
                    "params:finetune",
                    "params:compute",
                    "params:seed",
                    "params:resume",
                    "params:tracking.tensorboard",
                ],
                outputs=[classifier, history],
                name="finetune_classifier",
            ),
            node(
                test_classifier,
                inputs=[
                    classifier,
                    "usable_samples",
                    "patch_grids",
                    *parameters,
                    "params:compute",
                    "params:data",
                    "params:labeled_frac",
                ],
                outputs=[predictions, metrics],
                name="test_classifier",
            ),
        ]
    )
    shared = {name for name in arm.inputs() if name.startswith("params:")}
    namespaced = pipeline(  # all but `initial_classifier` keep their names
        arm,
        inputs=arm.inputs() - shared,
        outputs={classifier, history, predictions, metrics},
        parameters=shared,
        namespace=namespace,
    )
    return pipeline([_SUBSET]) + namespaced
