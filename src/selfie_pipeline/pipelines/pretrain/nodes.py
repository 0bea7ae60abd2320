"""Nodes of the pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd

from selfie_pipeline.config import (
    AugmentationConfig,
    ComputeConfig,
    ModelConfig,
    PatchConfig,
    PretrainConfig,
)
from selfie_pipeline.datasets.patch_grids import PatchGrids
from selfie_pipeline.datasets.weights import Weights
from selfie_pipeline.pipelines.patch.nodes import stored_images
from selfie_pipeline.provenance import configuration, environment
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.device import find_device
from selfie_pipeline.training.pretraining import pretrain


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
) -> tuple[Weights, pd.DataFrame]:
    """Pretrain on all samples but the test split's, without their labels.

    Returns:
        The encoder (P, A and the positions), and the training's history.
    """
    device = find_device(compute)
    rows = samples.loc[samples["split"] != "test", "sample"].to_numpy()
    settings = configuration(patch=patch, augmentation=augmentation, model=model, pretrain=recipe)
    origin = {"configuration": settings, "data": patch_grids.fingerprint}
    trained = pretrain(
        model,
        recipe,
        stored_images(patch_grids, patch, augmentation),
        rows,
        device,
        Checkpoints(
            checkpoints, {**origin, "precision": device.precision}, recipe.checkpoint_every, resume
        ),
    )
    provenance = {
        **origin,
        "device": device.name,
        "precision": device.precision,
        **environment(),
    }
    return Weights(trained.tensors, provenance), pd.DataFrame(trained.history)
