"""Nodes of the pretraining."""

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
from selfie_pipeline.datasets.weights import Weights
from selfie_pipeline.pipelines.patch.nodes import stored_images
from selfie_pipeline.provenance import configuration, environment
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.randomness import Purpose, fold_in
from selfie_pipeline.training.engine import open_engine
from selfie_pipeline.training.pretraining import pretrain
from selfie_pipeline.training.tensorboard import tensorboard_writer

_LOG = logging.getLogger(__name__)


def pretrain_encoder(
    patch_grids: PatchGrids,
    samples: pd.DataFrame,
    checkpoints: Path,
    patch: PatchConfig,
    augmentation: AugmentationConfig,
    model: ModelConfig,
    recipe: PretrainConfig,
    compute: ComputeConfig,
    resume: Literal["auto", "never"],
    tensorboard: bool,
) -> tuple[Weights, pd.DataFrame]:
    """Pretrain on all samples but the test split's, or some of these, without their labels.

    Returns:
        The encoder (P, A and the positions), and the training's history.
    """
    rows = _choose(samples.loc[samples["split"] != "test", "sample"].to_numpy(), recipe)
    passes = recipe.steps * recipe.batch_size / len(rows)
    _LOG.info("pretrain: %s images without their labels, %.3g passes", f"{len(rows):,}", passes)
    settings = configuration(patch=patch, augmentation=augmentation, model=model, pretrain=recipe)
    origin = {"configuration": settings, "data": patch_grids.fingerprint}
    with open_engine(compute) as engine:
        identity = {**origin, **engine.identity}
        state = Checkpoints(checkpoints, identity, recipe.checkpoint_every, resume)
        trained = pretrain(
            model,
            recipe,
            stored_images(patch_grids, patch, augmentation),
            rows,
            engine.here,
            state,
            tensorboard_writer(state) if tensorboard else None,
            train=engine.fit,
        )
    provenance = {
        **origin,
        "pretraining_images": len(rows),
        "device": engine.name,
        "precision": engine.precision,
        **environment(),
    }
    return Weights(trained.tensors, provenance), pd.DataFrame(trained.history)


def _choose(rows: NDArray[np.int64], recipe: PretrainConfig) -> NDArray[np.int64]:
    """As many of the rows as the recipe says; fewer lie within more, of the same seed.

    Raises:
        UserError: There are not as many.
    """
    if recipe.images is None:
        return rows
    if recipe.images > len(rows):
        raise UserError(
            f"pretrain.images = {recipe.images}, but there are {len(rows)} images to pretrain on; "
            f"allowed: {len(rows)} or less, or null for all"
        )
    random = np.random.default_rng(fold_in(recipe.seed, Purpose.PRETRAINING_IMAGES))
    return np.sort(random.permutation(rows)[: recipe.images])
