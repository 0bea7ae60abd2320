"""Node of the pretraining."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from selfie_pipeline.config import (
    AugmentationConfig,
    ComputeConfig,
    ModelConfig,
    PatchConfig,
    PretrainConfig,
    UserError,
)
from selfie_pipeline.datasets.patch_grids import PatchGrids
from selfie_pipeline.datasets.weights import read_given_weights
from selfie_pipeline.project import resolve_path
from selfie_pipeline.provenance import describe_environment, dump_configuration
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.batches import open_windows
from selfie_pipeline.training.data.randomness import RandomStream, fold_in
from selfie_pipeline.training.engine import open_engine
from selfie_pipeline.training.lineage import fingerprint_data, fingerprint_splits
from selfie_pipeline.training.pretraining import pretrain
from selfie_pipeline.training.tensorboard import TensorBoardWriter
from selfie_pipeline.weights import Weights

_LOG = logging.getLogger(__name__)


def pretrain_encoder(
    patch_grids: PatchGrids,
    samples: pd.DataFrame,
    folder: Path,
    patch: PatchConfig,
    augmentation: AugmentationConfig,
    model: ModelConfig,
    recipe: PretrainConfig,
    compute: ComputeConfig,
    resume: Literal["auto", "never"],
    tensorboard: bool,
) -> tuple[Weights, pd.DataFrame]:
    """Pretrain on the samples outside the test split, or on some of them, without their labels.

    Returns:
        The encoder (P, A and the positions), and the training's history.

    Raises:
        UserError: The weights to begin from can't be read or do not fit.
    """
    rows = _draw_rows(samples.loc[samples["split"] != "test", "sample"].to_numpy(), recipe)
    epochs = recipe.steps * recipe.batch_size / len(rows)
    _LOG.info(
        "pretrain: %s images without their labels, %s epochs", f"{len(rows):,}", f"{epochs:,.1f}"
    )
    initial = None
    if recipe.weights is not None:
        initial = read_given_weights(resolve_path(recipe.weights))
        recipe = recipe.model_copy(update=initial.provenance)  # the digest identifies it
    settings = dump_configuration(
        patch=patch, augmentation=augmentation, model=model, pretrain=recipe
    )
    lineage = {"configuration": settings, "data": fingerprint_data(patch_grids, samples)}
    with open_engine(compute) as engine:
        identity = {**lineage, **engine.identity}
        checkpoints = Checkpoints(folder, identity, recipe.checkpoint_every, resume)
        result = pretrain(
            model,
            recipe,
            open_windows(patch_grids, patch, augmentation),
            rows,
            engine.local_device,
            checkpoints,
            [TensorBoardWriter(checkpoints)] if tensorboard else [],
            fit=engine.fit,
            initial=initial,
        )
    provenance = {
        **lineage,
        "pretraining_images": len(rows),
        "splits": fingerprint_splits(samples),
        "device": engine.device_name,
        "precision": engine.precision,
        **describe_environment(),
    }
    return Weights(result.tensors, provenance), pd.DataFrame(result.history)


def _draw_rows(rows: NDArray[np.int64], recipe: PretrainConfig) -> NDArray[np.int64]:
    """Draw as many rows as the recipe asks for; a smaller draw is part of a larger one.

    Raises:
        UserError: There are fewer rows.
    """
    if recipe.images is None:
        return rows
    if recipe.images > len(rows):
        raise UserError(
            f"pretrain.images = {recipe.images}, but there are {len(rows)} images to pretrain on; "
            f"allowed: {len(rows)} or less, or null for all"
        )
    random = np.random.default_rng(fold_in(recipe.seed, RandomStream.PRETRAINING_IMAGES))
    return np.sort(random.permutation(rows)[: recipe.images])
