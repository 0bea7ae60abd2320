"""Nodes of the two arms: finetuning from the pretrained stages, and from scratch."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any, Literal

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
from selfie_pipeline.datasets.weights import Weights
from selfie_pipeline.evaluation.scores import accuracy, mean_loss, pack_correct, predictions_table
from selfie_pipeline.models.classifier import (
    Classifier,
    build_classifier,
    load_pretrained,
    num_classes,
)
from selfie_pipeline.pipelines.finetune.origin import (
    FROM_SCRATCH,
    classifier_origin,
    comparable,
    from_encoder,
)
from selfie_pipeline.pipelines.patch.nodes import stored_images
from selfie_pipeline.provenance import environment
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.batches import Images
from selfie_pipeline.training.data.subset import labeled_subset
from selfie_pipeline.training.device import Device, find_device
from selfie_pipeline.training.engine import open_engine
from selfie_pipeline.training.finetuning import classify, finetune, fresh_classifier
from selfie_pipeline.training.loop import Fit, StepCallback, TrainingResult, fit
from selfie_pipeline.training.tensorboard import tensorboard_writer

_LOG = logging.getLogger(__name__)


def draw_labeled_subset(samples: pd.DataFrame, labeled_frac: float, seed: int) -> pd.DataFrame:
    """Choose the training samples whose labels finetuning may see."""
    train = samples[samples["split"] == "train"]
    if train.empty:
        raise UserError(
            "there are no labeled training samples, so only pretraining can run: `kedro run "
            "--pipelines=ingest,patch,pretrain`"
        )
    chosen = labeled_subset(train["label"].to_numpy(), labeled_frac, seed)
    return train.iloc[chosen].reset_index(drop=True)


def initialise_from_encoder(
    encoder: Weights,
    samples: pd.DataFrame,
    patch: PatchConfig,
    model: ModelConfig,
    recipe: FinetuneConfig,
    seed: int,
) -> Weights:
    """Hand over what was pretrained of the network; the rest is fresh.

    Raises:
        UserError: The encoder's tensors do not fit, or it uses them in another way.
    """
    network = fresh_classifier(model, recipe.architecture, patch, count_classes(samples), seed)
    try:
        handed_over = load_pretrained(encoder.tensors, network)
        if recipe.architecture == "resnet36_attention":
            _check_same_use(encoder, model)
    except ValueError as error:
        raise UserError(
            f"{error}; the encoder was pretrained with other model parameters: run `kedro run "
            "--pipeline=pretrain`, or name a version that fits with --load-versions=encoder:VERSION"
        ) from None
    parts = Counter(name.split(".")[0] for name in handed_over)
    counts = ", ".join(f"{count} of {part}" for part, count in parts.items())
    _LOG.info("Handed over %d tensors: %s", len(handed_over), counts)
    return Weights(network.state_dict(), from_encoder(encoder) | {"handed_over": handed_over})


def _check_same_use(encoder: Weights, model: ModelConfig) -> None:
    """Check what the shapes of A's tensors do not tell."""
    theirs = ModelConfig.model_validate(encoder.provenance["configuration"]["model"])
    for key, pretrained, wanted in (
        ("encoder_positions", theirs.encoder_positions, model.encoder_positions),
        ("attention.heads", theirs.attention.heads, model.attention.heads),
    ):
        if pretrained != wanted:
            raise ValueError(
                f"model.{key} = {wanted} does not fit the encoder, which has {pretrained}"
            )


def initialise_from_scratch(
    samples: pd.DataFrame,
    patch: PatchConfig,
    model: ModelConfig,
    recipe: FinetuneConfig,
    seed: int,
) -> Weights:
    """The same network with the same fresh layers, nothing handed over."""
    network = fresh_classifier(model, recipe.architecture, patch, count_classes(samples), seed)
    return Weights(network.state_dict(), FROM_SCRATCH | {"handed_over": []})


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
    recipe: FinetuneConfig,
    compute: ComputeConfig,
    seed: int,
    resume: Literal["auto", "never"],
    tensorboard: bool,
) -> tuple[Weights, pd.DataFrame]:
    """Train the whole network on the labeled subset.

    Returns:
        The classifier after the last step, and the training's history. With its provenance the
        classifier needs nothing else: `classes` are the outputs' names, `mean` and `std`, of each
        channel in units of 255, what its images are normalised with.
    """
    pretraining = initial_classifier.provenance
    origin = classifier_origin(
        pretraining, patch_grids.fingerprint, patch, augmentation, model, recipe
    ) | {"seed": seed, "labels": len(labeled_samples)}
    title = "finetune" if pretraining["encoder"] else "baseline"
    passes = recipe.steps * recipe.batch_size / len(labeled_samples)
    _LOG.info("%s: %s labeled images, %.3g passes", title, f"{len(labeled_samples):,}", passes)
    with open_engine(compute) as engine:
        identity = {**origin, **engine.identity}
        state = Checkpoints(checkpoints, identity, recipe.checkpoint_every, resume)
        _, trained = train_classifier(
            initial_classifier,
            labeled_samples,
            stored_images(patch_grids, patch, augmentation),
            model,
            recipe,
            seed,
            engine.here,
            state,
            title,
            tensorboard_writer(state) if tensorboard else None,
            train=engine.fit,
        )
    provenance = {
        **origin,
        "classes": labeled_samples.groupby("label")["class_name"].first().tolist(),
        "mean": patch_grids.mean.tolist(),
        "std": patch_grids.std.tolist(),
        "device": engine.name,
        "precision": engine.precision,
        **environment(),
    }
    return Weights(trained.tensors, provenance), pd.DataFrame(trained.history)


def train_classifier(
    initial_classifier: Weights,
    labeled_samples: pd.DataFrame,
    images: Images,
    model: ModelConfig,
    recipe: FinetuneConfig,
    seed: int,
    device: Device,
    checkpoints: Checkpoints,
    title: str,
    watch: StepCallback | None = None,
    train: Fit = fit,
) -> tuple[Classifier, TrainingResult]:
    """Train the network of some initial weights.

    Args:
        initial_classifier: As `initialise_from_encoder` or `initialise_from_scratch` makes it.
        labeled_samples: What to train on: columns `sample` and `label`.
        images: Where they lie.
        model: Parameters.
        recipe: Parameters.
        seed: Of the batches.
        device: Where and in which precision.
        checkpoints: Where the training's state is kept.
        title: What progress calls it.
        watch: Looks at the training as it goes.
        train: An engine's, where it is not this process that trains.

    Returns:
        The network after the last step, and what the training leaves.
    """
    classes = num_classes(initial_classifier.tensors)
    network = build_classifier(model, recipe.architecture, images.patch, classes)
    network.load_state_dict(initial_classifier.tensors, strict=True)
    trained = finetune(
        network,
        handed_over=initial_classifier.provenance["handed_over"],
        recipe=recipe,
        seed=seed,
        images=images,
        rows=labeled_samples["sample"].to_numpy(),
        labels=labeled_samples["label"].to_numpy(),
        device=device,
        checkpoints=checkpoints,
        title=title,
        watch=watch,
        train=train,
    )
    return network, trained


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
    """Read the test split, once: nothing after this chooses anything.

    Returns:
        One row a test sample, and the result as a cell of the results table. In this order: where
        there is a result, all else of it is there.
    """
    network = load_classifier(classifier)
    test = samples[samples["split"] == "test"]
    rows, labels = test["sample"].to_numpy(), test["label"].to_numpy()
    logits = classify(
        network, stored_images(patch_grids, patch, augmentation), rows, find_device(compute)
    )  # (M, classes)
    provenance = classifier.provenance
    cell = {
        "data": data.name,
        "network": network_name(model, provenance["configuration"]["finetune"]["architecture"]),
        "arm": "selfie" if provenance["encoder"] else "supervised",
        "labeled_frac": labeled_frac,
        "labels": provenance["labels"],
        "seed": provenance["seed"],
        "accuracy": accuracy(labels, logits),
        "loss": mean_loss(labels, logits),
        "test_samples": len(test),
        "correct": pack_correct(labels, logits),
        "configuration": comparable(provenance),
        "provenance": {**provenance, "classifier": classifier.digest()},
    }
    return predictions_table(rows, labels, logits), cell


def load_classifier(classifier: Weights) -> Classifier:
    """The network of a classifier's tensors, as the configuration that they were made with says.

    Raises:
        UserError: It does not say so: the classifier is another version's of this project.
    """
    made_with = classifier.provenance["configuration"]
    try:
        network = build_classifier(
            ModelConfig.model_validate(made_with["model"]),
            made_with["finetune"]["architecture"],
            PatchConfig.model_validate(made_with["patch"]),
            num_classes(classifier.tensors),
        )
    except (KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the classifier does not say which network it is ({reason}): another version of this "
            "project made it; make it anew with `kedro run --pipelines=finetune,baseline`"
        ) from None
    network.load_state_dict(classifier.tensors, strict=True)
    return network


def network_name(model: ModelConfig, architecture: Architecture) -> str:
    """The network in words, such as "ResNet-50 v2" or "ResNet-36 v2 + attention"."""
    version = "v2" if model.preactivation else "v1"
    hybrid = architecture == "resnet36_attention"
    layers, end = (model.layers[:3], " + attention") if hybrid else (model.layers, "")
    if model.width == 64 and layers == [3, 4, 6, 3][: len(layers)]:  # noqa: PLR2004
        return f"ResNet-{36 if hybrid else 50} {version}{end}"
    return f"ResNet {version} {'-'.join(map(str, layers))}, width {model.width}{end}"
