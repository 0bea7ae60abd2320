"""Nodes of the arms: finetuning from an encoder or given weights, and from scratch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from selfie_pipeline.config import (
    Architecture,
    AugmentationConfig,
    ComputeConfig,
    DataConfig,
    FinetuneConfig,
    ModelConfig,
    PatchConfig,
    UserError,
)
from selfie_pipeline.datasets.patch_grids import PatchGrids
from selfie_pipeline.datasets.weights import read_given_weights
from selfie_pipeline.evaluation.convergence import measure_convergence
from selfie_pipeline.evaluation.scores import (
    build_predictions_table,
    mean_loss,
    pack_correct,
)
from selfie_pipeline.models.classifier import build_classifier, num_classes, restore_classifier
from selfie_pipeline.project import resolve_path
from selfie_pipeline.provenance import describe_environment
from selfie_pipeline.sources.samples import count_classes
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.batches import WindowReader, open_windows
from selfie_pipeline.training.data.randomness import RandomStream, fold_in
from selfie_pipeline.training.device import Device, find_device
from selfie_pipeline.training.engine import open_engine
from selfie_pipeline.training.finetuning import (
    HELD_OUT_SAMPLES,
    finetune,
    held_out_score,
    initialise_classifier,
    set_initial_weights,
)
from selfie_pipeline.training.inference import compute_outputs
from selfie_pipeline.training.lineage import (
    classifier_lineage,
    comparison_key,
    excludes_test_split,
    fingerprint_data,
    initial_weights_lineage,
    name_arm,
)
from selfie_pipeline.training.loop import StepCallback
from selfie_pipeline.training.tensorboard import TensorBoardWriter
from selfie_pipeline.weights import Weights

_LOG = logging.getLogger(__name__)


def read_weights(weights: str | None) -> Weights:
    """Read the given weights.

    Raises:
        UserError: No file is named, or it can't be read.
    """
    if weights is None:
        raise UserError("weights = null, but this run starts from it; set weights=FILE (--params)")
    return read_given_weights(resolve_path(weights))


def initialise(
    samples: pd.DataFrame,
    patch: PatchConfig,
    model: ModelConfig,
    recipe: FinetuneConfig,
    seed: int,
    initial: Weights | None = None,
) -> Weights:
    """Initialise a classifier; load its pretrained part if it starts from an encoder or weights.

    Raises:
        UserError: They do not fit.
    """
    network = initialise_classifier(model, recipe.architecture, patch, count_classes(samples), seed)
    lineage = initial_weights_lineage(initial)
    pretrained = set_initial_weights(network, initial, model)
    excludes = None if initial is None else excludes_test_split(initial, samples)
    return Weights(
        network.state_dict(),
        lineage | {"pretrained": pretrained, "pretraining_excludes_test_split": excludes},
    )


def finetune_classifier(
    initial_classifier: Weights,
    labeled_samples: pd.DataFrame,
    samples: pd.DataFrame,
    patch_grids: PatchGrids,
    folder: Path,
    patch: PatchConfig,
    augmentation: AugmentationConfig,
    model: ModelConfig,
    recipe: FinetuneConfig,
    compute: ComputeConfig,
    seed: int,
    resume: Literal["auto", "never"],
    tensorboard: bool,
) -> tuple[Weights, pd.DataFrame]:
    """Train the whole network on the labeled subset.

    Returns:
        The classifier after the last step, and the training's history. The classifier's provenance
        has all that its use needs: `classes` are the outputs' names; `mean` and `std`, of each
        channel for pixels scaled to 0 to 1, normalise its images. `training` says how the training
        ended: see `measure_convergence` and `held_out_score`.

    Raises:
        UserError: The labeled samples are not those of `samples`, or see `finetune`.
    """
    if len(labeled_samples.merge(samples)) < len(labeled_samples):
        raise UserError(
            "labeled_samples were drawn from earlier usable_samples, whose images or labels were "
            "others; run the whole pipeline, without --namespaces, --from-nodes and the like"
        )
    pretraining = initial_classifier.provenance
    data = fingerprint_data(patch_grids, samples)
    lineage = classifier_lineage(pretraining, data, patch, augmentation, model, recipe) | {
        "seed": seed,
        "labels": len(labeled_samples),
    }
    title = f"{'finetune' if pretraining['pretrained'] else 'baseline'}, "
    title += f"{len(labeled_samples):,} labels, seed {seed}"  # others may train at the same time
    epochs = recipe.steps * recipe.batch_size / len(labeled_samples)
    _LOG.info("%s: %s epochs", title, f"{epochs:,.1f}")
    classes = num_classes(initial_classifier.tensors)
    network = build_classifier(model, recipe.architecture, patch, classes)
    network.load_state_dict(initial_classifier.tensors, strict=True)
    images = open_windows(patch_grids, patch, augmentation)
    labels = labeled_samples["label"].to_numpy()
    with open_engine(compute) as engine:
        identity = {**lineage, **engine.identity}
        checkpoints = Checkpoints(folder, identity, recipe.checkpoint_every, resume)
        callbacks = _score_held_out(samples, labeled_samples, images, engine.local_device, seed)
        if tensorboard:
            callbacks.append(TensorBoardWriter(checkpoints))
        result = finetune(
            network,
            pretrained=pretraining["pretrained"],
            recipe=recipe,
            seed=seed,
            images=images,
            rows=labeled_samples["sample"].to_numpy(),
            labels=labels,
            device=engine.local_device,
            checkpoints=checkpoints,
            title=title,
            callbacks=callbacks,
            fit=engine.fit,
        )
    history = pd.DataFrame(result.history)
    provenance = {
        **lineage,
        "pretraining_excludes_test_split": pretraining["pretraining_excludes_test_split"],
        "training": measure_convergence(history, labels) | result.measured,
        "classes": labeled_samples.groupby("label")["class_name"].first().tolist(),
        "mean": patch_grids.mean.tolist(),
        "std": patch_grids.std.tolist(),
        "device": engine.device_name,
        "precision": engine.precision,
        **describe_environment(),
    }
    return Weights(result.tensors, provenance), history


def _score_held_out(
    samples: pd.DataFrame, labeled: pd.DataFrame, images: WindowReader, device: Device, seed: int
) -> list[StepCallback]:
    """Return `held_out_score` of samples whose labels finetuning does not see, if there are any."""
    train = samples[samples["split"] == "train"]
    others = train[~train["sample"].isin(labeled["sample"])]
    if others.empty:
        return []
    rng = np.random.default_rng(fold_in(seed, RandomStream.HELD_OUT))
    drawn = others.iloc[np.sort(rng.permutation(len(others))[:HELD_OUT_SAMPLES])]
    return [held_out_score(images, drawn["sample"].to_numpy(), drawn["label"].to_numpy(), device)]


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
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Score the classifier on the test split, once: nothing after this chooses anything.

    Returns:
        One row a test sample, and the result as a cell of the results table. They are saved in
        this order, so that a saved result is complete.
    """
    network = restore_classifier(classifier.tensors, classifier.provenance)
    test = samples[samples["split"] == "test"]
    rows, labels = test["sample"].to_numpy(), test["label"].to_numpy()
    images = open_windows(patch_grids, patch, augmentation)
    logits = compute_outputs(network, images, rows, find_device(compute), "classify")  # (M, K)
    predictions = build_predictions_table(rows, labels, logits)
    correct = predictions["correct"].to_numpy()  # (M,)
    provenance = classifier.provenance
    cell = {
        "data": data.name,
        "network": network_name(model, provenance["configuration"]["finetune"]["architecture"]),
        "arm": name_arm(provenance["configuration"]),
        "labeled_frac": labeled_frac,
        "labels": provenance["labels"],
        "seed": provenance["seed"],
        "accuracy": float(correct.mean()),
        "loss": mean_loss(labels, logits),
        "test_samples": len(test),
        "correct": pack_correct(correct),
        "configuration": comparison_key(provenance),
        "provenance": {**provenance, "classifier": classifier.digest()},
    }
    return predictions, cell


def network_name(model: ModelConfig, architecture: Architecture) -> str:
    """Return the network's name, such as "ResNet-50 v2" or "ResNet-36 v2 + attention"."""
    version = "v2" if model.preactivation else "v1"
    hybrid = architecture == "resnet36_attention"
    layers, end = (model.layers[:3], " + attention") if hybrid else (model.layers, "")
    if model.width == 64 and layers == [3, 4, 6, 3][: len(layers)]:  # noqa: PLR2004
        return f"ResNet-{36 if hybrid else 50} {version}{end}"
    return f"ResNet {version} {'-'.join(map(str, layers))}, width {model.width}{end}"
