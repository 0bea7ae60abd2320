"""Nodes of the two arms: finetuning from the pretrained stages, and from scratch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from selfie_pipeline.config import (
    AugmentationConfig,
    ComputeConfig,
    DataConfig,
    ModelConfig,
    PatchConfig,
    TrainingConfig,
    UserError,
)
from selfie_pipeline.datasets.patch_grids import PatchGrids
from selfie_pipeline.datasets.weights import Weights
from selfie_pipeline.evaluation.scores import accuracy, mean_loss, predictions_table
from selfie_pipeline.models.backbone import build_resnet
from selfie_pipeline.models.classifier import hand_over
from selfie_pipeline.pipelines.patch.nodes import stored_images
from selfie_pipeline.provenance import configuration, digest, environment
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.device import find_device
from selfie_pipeline.training.finetuning import classify, finetune, fresh_classifier
from selfie_pipeline.training.subset import labeled_subset

_LOG = logging.getLogger(__name__)


def draw_labeled_subset(samples: pd.DataFrame, labeled_frac: float, seed: int) -> pd.DataFrame:
    """Choose the training samples whose labels finetuning may see."""
    train = samples[samples["split"] == "train"]
    if train.empty:
        raise UserError("there are no labeled training samples; only pretraining can run")
    chosen = labeled_subset(train["label"].to_numpy(), labeled_frac, seed)
    return train.iloc[chosen].reset_index(drop=True)


def initialise_from_encoder(
    encoder: Weights, samples: pd.DataFrame, model: ModelConfig, seed: int
) -> Weights:
    """Hand the stem and the first three stages over; the fourth stage and the head are fresh."""
    network = fresh_classifier(model, count_classes(samples), seed)
    try:
        handed_over = hand_over(encoder.tensors, network)
    except ValueError as error:
        raise UserError(
            f"{error}; the encoder was pretrained with other model parameters: run `kedro run "
            "--pipeline=pretrain`, or name a version that fits with --load-versions=encoder:VERSION"
        ) from None
    _LOG.info("Handed over %d tensors of the stem and the first three stages", len(handed_over))
    pretraining = {
        "encoder": encoder.digest(),
        "configuration": {"pretrain": encoder.provenance["configuration"]["pretrain"]},
    }
    return Weights(network.state_dict(), pretraining)


def initialise_from_scratch(samples: pd.DataFrame, model: ModelConfig, seed: int) -> Weights:
    """The same network with the same fresh fourth stage and head, nothing handed over."""
    network = fresh_classifier(model, count_classes(samples), seed)
    return Weights(network.state_dict(), {"encoder": None, "configuration": {}})


def count_classes(samples: pd.DataFrame) -> int:
    """Outputs that a classifier of these samples needs."""
    return int(samples["label"].max()) + 1


def finetune_classifier(
    initial_classifier: Weights,
    labeled_samples: pd.DataFrame,
    patch_grids: PatchGrids,
    checkpoints: Path,
    patch: PatchConfig,
    augmentation: AugmentationConfig,
    model: ModelConfig,
    recipe: TrainingConfig,
    compute: ComputeConfig,
    seed: int,
    resume: Literal["auto", "never"],
) -> tuple[Weights, pd.DataFrame]:
    """Train the whole network on the labeled subset.

    Returns:
        The classifier after the last step, and the training's history.
    """
    device = find_device(compute)
    classes = len(initial_classifier.tensors["head.fc.bias"])
    network = build_resnet(model, classes)
    network.load_state_dict(initial_classifier.tensors, strict=True)
    pretraining = initial_classifier.provenance
    origin = {
        "configuration": configuration(
            patch=patch, augmentation=augmentation, model=model, finetune=recipe
        )
        | pretraining["configuration"],
        "seed": seed,
        "labels": len(labeled_samples),
        "data": patch_grids.fingerprint,
        "encoder": pretraining["encoder"],
    }
    trained = finetune(
        network,
        recipe=recipe,
        seed=seed,
        images=stored_images(patch_grids, patch, augmentation),
        rows=labeled_samples["sample"].to_numpy(),
        labels=labeled_samples["label"].to_numpy(),
        device=device,
        checkpoints=Checkpoints(
            checkpoints, {**origin, "precision": device.precision}, recipe.checkpoint_every, resume
        ),
        title="finetune" if pretraining["encoder"] else "baseline",
    )
    provenance = {
        **origin,
        "device": device.name,
        "precision": device.precision,
        **environment(),
    }
    return Weights(trained.tensors, provenance), pd.DataFrame(trained.history)


def test_classifier(
    classifier: Weights,
    samples: pd.DataFrame,
    patch_grids: PatchGrids,
    patch: PatchConfig,
    augmentation: AugmentationConfig,
    model: ModelConfig,
    compute: ComputeConfig,
    data: DataConfig,
    labeled_frac: float,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Read the test split, once: nothing after this chooses anything.

    Returns:
        The result as a cell of the results table, and one row a test sample.
    """
    network = build_resnet(model, len(classifier.tensors["head.fc.bias"]))
    network.load_state_dict(classifier.tensors, strict=True)
    test = samples[samples["split"] == "test"]
    rows, labels = test["sample"].to_numpy(), test["label"].to_numpy()
    logits = classify(
        network, stored_images(patch_grids, patch, augmentation), rows, find_device(compute)
    )  # (M, classes)
    provenance = classifier.provenance
    cell = {
        "data": data.source,
        "network": network_name(model),
        "arm": "selfie" if provenance["encoder"] else "supervised",
        "labeled_frac": labeled_frac,
        "labels": provenance["labels"],
        "seed": provenance["seed"],
        "accuracy": accuracy(labels, logits),
        "loss": mean_loss(labels, logits),
        "test_samples": len(test),
        "configuration": digest(
            {"configuration": provenance["configuration"], "data": provenance["data"]}
        ),
        "provenance": {**provenance, "classifier": classifier.digest()},
    }
    return cell, predictions_table(rows, labels, logits)


def network_name(model: ModelConfig) -> str:
    """The network in words, such as "ResNet-50 v2"."""
    version = "v2" if model.preactivation else "v1"
    if model.layers == [3, 4, 6, 3] and model.width == 64:  # noqa: PLR2004
        return f"ResNet-50 {version}"
    return f"ResNet {version} {'-'.join(map(str, model.layers))}, width {model.width}"
