"""The arms: one pipeline under several namespaces, from labels to a tested classifier."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline, node, pipeline

from selfie_pipeline.pipelines.finetune.nodes import (
    draw_labeled_subset,
    finetune_classifier,
    initialise_from,
    initialise_from_scratch,
    read_weights,
    test_classifier,
)

_SUBSET = node(
    draw_labeled_subset,
    inputs=["usable_samples", "params:labeled_frac", "params:seed"],
    outputs="labeled_samples",
    name="draw_labeled_subset",
)
_INITIAL = ["usable_samples", "params:patch", "params:model", "params:finetune", "params:seed"]
_SHARED = {"usable_samples", "labeled_samples", "patch_grids"}


def create_selfie_pipeline() -> Pipeline:
    """The arm that starts from the pretrained stages."""
    initialise = node(
        initialise_from,
        inputs=["encoder", *_INITIAL],
        outputs="initial_classifier",
        name="initialise_from_encoder",
    )
    return _create_arm("selfie", initialise, {"encoder"})


def create_weights_pipeline() -> Pipeline:
    """The arm that starts from given weights."""
    read = node(
        read_weights, inputs="params:weights", outputs="given_weights", name="read_given_weights"
    )
    initialise = node(
        initialise_from,
        inputs=["given_weights", *_INITIAL],
        outputs="initial_classifier",
        name="initialise_from_weights",
    )
    return pipeline([read]) + _create_arm("weights", initialise, {"given_weights"})


def create_supervised_pipeline() -> Pipeline:
    """The arm that starts from scratch."""
    initialise = node(
        initialise_from_scratch,
        inputs=_INITIAL,
        outputs="initial_classifier",
        name="initialise_from_scratch",
    )
    return _create_arm("supervised", initialise, set())


def _create_arm(namespace: str, initialise: Node, more_inputs: set[str]) -> Pipeline:
    parameters = ["params:patch", "params:augmentation", "params:model"]
    arm = pipeline(
        [
            initialise,
            node(
                finetune_classifier,
                inputs=[
                    "initial_classifier",
                    "labeled_samples",
                    "usable_samples",
                    "patch_grids",
                    "checkpoints",
                    *parameters,
                    "params:finetune",
                    "params:compute",
                    "params:seed",
                    "params:resume",
                    "params:tracking.tensorboard",
                ],
                outputs=["classifier", "history"],
                name="finetune_classifier",
            ),
            node(
                test_classifier,
                inputs=[
                    "classifier",
                    "usable_samples",
                    "patch_grids",
                    *parameters,
                    "params:compute",
                    "params:data",
                    "params:labeled_frac",
                ],
                outputs=["predictions", "metrics"],
                name="test_classifier",
            ),
        ]
    )
    shared_parameters = {name for name in arm.inputs() if name.startswith("params:")}
    namespaced = pipeline(
        arm,
        namespace=namespace,
        inputs={name: name for name in _SHARED | more_inputs}
        | {"checkpoints": f"{namespace}_checkpoints"},
        outputs={
            name: f"{namespace}_{name}"
            for name in ("classifier", "history", "metrics", "predictions")
        },
        parameters=shared_parameters,
    )
    return pipeline([_SUBSET]) + namespaced
