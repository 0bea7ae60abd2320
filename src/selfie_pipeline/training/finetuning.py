"""Finetuning: from few labels, with or without pretrained stages, to a classifier."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.swa_utils import update_bn

from selfie_pipeline.config import (
    Architecture,
    FinetuneConfig,
    ModelConfig,
    PatchConfig,
    UserError,
)
from selfie_pipeline.models.classifier import (
    AttentionClassifier,
    Classifier,
    build_classifier,
    pretrained_stages,
)
from selfie_pipeline.models.loading import load_given_weights, load_pretrained
from selfie_pipeline.provenance import readable_provenance
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.augmentation import normalise
from selfie_pipeline.training.data.batches import Batches, WindowReader, shuffled_samples
from selfie_pipeline.training.data.randomness import seeded_initialisation
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.inference import compute_accuracy
from selfie_pipeline.training.lineage import is_given
from selfie_pipeline.training.loop import Fit, StepCallback, fit
from selfie_pipeline.training.memory import network_too_large_error, training_bytes
from selfie_pipeline.training.state import TrainingResult, TrainingState
from selfie_pipeline.training.tasks import FinetuningTask
from selfie_pipeline.weights import Weights

_LOG = logging.getLogger(__name__)
_STATISTICS_BATCH_SIZE = 256
HELD_OUT_SAMPLES = 1000
"""Largest number of images that `held_out_score` measures on."""
_STATISTICS_SAMPLES = 10_000
"""Largest number of images that BatchNorm's statistics are re-estimated on."""


def initialise_classifier(
    model: ModelConfig, architecture: Architecture, patch: PatchConfig, classes: int, seed: int
) -> Classifier:
    """Build a classifier whose weights follow from the seed alone, so equal for both arms.

    Raises:
        UserError: It does not fit in memory.
    """
    with seeded_initialisation(seed), network_too_large_error():
        return build_classifier(model, architecture, patch, classes)


def set_initial_weights(
    classifier: Classifier, initial: Weights | None, model: ModelConfig
) -> list[str]:
    """Load an encoder, given weights, or nothing into a classifier.

    Returns:
        The names of the tensors that are pretrained now.

    Raises:
        UserError: They do not fit.
    """
    if initial is None:
        return []
    if not is_given(initial):
        return load_encoder_into(classifier, initial, model)
    loaded = load_given_weights(initial.tensors, classifier)
    _LOG.info("Loaded %d given tensors", len(loaded))
    return loaded


def load_encoder_into(classifier: Classifier, encoder: Weights, model: ModelConfig) -> list[str]:
    """Load the pretrained part of a classifier from an encoder.

    Args:
        classifier: A network from `initialise_classifier`; changed in place.
        encoder: The encoder, with its configuration in its provenance.
        model: The networks' sizes and options that the classifier was built with.

    Returns:
        The names of the tensors that are pretrained now.

    Raises:
        UserError: The encoder's tensors do not fit, or it uses them in another way.
    """
    theirs = model
    if isinstance(classifier, AttentionClassifier):
        with readable_provenance("encoder", "network"):
            theirs = ModelConfig.model_validate(encoder.provenance["configuration"]["model"])
    try:
        pretrained = load_pretrained(encoder.tensors, classifier)
        _check_attention(theirs, model)
    except UserError as error:
        raise UserError(
            f"{error}; the encoder was pretrained with other model parameters: run `kedro run "
            "--pipeline=pretrain`, or name a version that fits with --load-versions=encoder:VERSION"
        ) from None
    parts = Counter(name.split(".")[0] for name in pretrained)
    counts = ", ".join(f"{count} of {part}" for part, count in parts.items())
    _LOG.info("Loaded %d pretrained tensors: %s", len(pretrained), counts)
    return pretrained


def _check_attention(theirs: ModelConfig, model: ModelConfig) -> None:
    """Check the encoder's options of A that the shapes of its tensors do not reveal."""
    for key, pretrained, wanted in (
        ("encoder_positions", theirs.encoder_positions, model.encoder_positions),
        ("attention.heads", theirs.attention.heads, model.attention.heads),
    ):
        if pretrained != wanted:
            raise UserError(
                f"model.{key} = {wanted} does not fit the encoder, which has {pretrained}"
            )


def finetune(
    network: Classifier,
    *,
    pretrained: Collection[str],
    recipe: FinetuneConfig,
    seed: int,
    images: WindowReader,
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    device: Device,
    checkpoints: Checkpoints,
    title: str,
    callbacks: Sequence[StepCallback] = (),
    fit: Fit = fit,
) -> TrainingResult:
    """Train the whole network on whole images (paper, "Fine Tuning").

    Args:
        network: The classifier, freshly initialised or partly pretrained; changed in place.
        pretrained: Names of its pretrained tensors; none in the supervised arm.
        recipe: Steps, batch size, learning rates, and what happens before the first step.
        seed: Seed of the batches and of dropout.
        images: The images to train on.
        rows: (M,), int64: the labeled samples.
        labels: (M,), int64: their classes.
        device: The device and the precision.
        checkpoints: The training's checkpoints.
        title: The training's name in messages.
        callbacks: Called after every step, for example to stop the training early.
        fit: The training loop, of this process or of an engine.

    Returns:
        The tensors after the last step (no step is chosen by its score), and the history.

    Raises:
        TrainingInterrupted: A signal asked it to stop; the same call resumes it.
        NonFiniteLossError: The loss is not finite.
        UserError: A batch does not fit in memory, or a checkpoint or its lock can't be written.
    """
    label_of_row = torch.full((int(rows.max()) + 1,), -1)
    label_of_row[torch.tensor(rows)] = torch.tensor(labels)
    if recipe.reestimate_statistics and pretrained:
        chosen = shuffled_samples(seed, len(rows), np.arange(min(len(rows), _STATISTICS_SAMPLES)))
        reestimate_statistics(network, images, rows[chosen], device)
    task = FinetuningTask(network, recipe, images, label_of_row, seed=seed, pretrained=pretrained)
    batches = Batches(images, rows, seed, recipe)
    with checkpoints.reserved(title):
        return fit(task, batches, device, checkpoints, title, callbacks)


def held_out_score(
    images: WindowReader, rows: NDArray[np.int64], labels: NDArray[np.int64], device: Device
) -> StepCallback:
    """Return a callback that measures the accuracy on samples outside the training.

    It measures at half of the steps, as `held_out_half`, and at the end, as `held_out`, both
    fractions. It chooses nothing: the training and its weights are the same without it.

    Args:
        images: The stored images.
        rows: (M,), int64: the samples; at least one.
        labels: (M,), int64: their classes.
        device: The device and the precision.
    """

    def measure(state: TrainingState) -> None:
        names = {state.recipe.steps // 2: "held_out_half", state.recipe.steps: "held_out"}
        if (name := names.get(state.step)) is not None:
            state.measured[name] = compute_accuracy(state.network, images, rows, labels, device)
            state.network.train()

    return measure


def finetuning_bytes(model: ModelConfig, recipe: FinetuneConfig, patch: PatchConfig) -> int:
    """Estimate the memory of a finetuning, with up to 1,000 classes, on a CPU, in bytes."""
    batch = recipe.batch_size // recipe.accumulate
    with torch.device("meta"):
        network = build_classifier(model, recipe.architecture, patch, classes=1000)
        images = torch.empty(batch, 3, patch.image_size, patch.image_size)  # (B, C, H, W)
    return training_bytes(network, images)


def reestimate_statistics(
    network: Classifier, images: WindowReader, rows: NDArray[np.int64], device: Device
) -> None:
    """Re-estimate the BatchNorm statistics of the pretrained stages: from patches to whole images.

    They are means over batches, each of which is normalised by its own statistics. Training does
    not read them, and forgets them at the rate of BatchNorm's momentum; so this matters in a short
    training only.

    Args:
        network: The classifier; only these statistics change. It stays on the device.
        images: The stored images; their augmentation is not applied.
        rows: (M,), int64: the samples.
        device: The device and the precision.
    """
    network.to(device.type).to(memory_format=torch.channels_last)
    mean = torch.from_numpy(images.grids.mean).to(device.type)  # (C,)
    std = torch.from_numpy(images.grids.std).to(device.type)  # (C,)
    batches = np.array_split(rows, -(-len(rows) // _STATISTICS_BATCH_SIZE))  # none of one image
    windows = (  # (B, C, H, W)
        normalise(images.read_central(batch).to(device.type), mean, std) for batch in batches
    )
    with device.autocast():
        update_bn(windows, pretrained_stages(network))
