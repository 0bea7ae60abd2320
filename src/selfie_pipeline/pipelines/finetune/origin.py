"""What a classifier follows from: the part of its provenance that is known before it is trained."""

from __future__ import annotations

from typing import Any

from selfie_pipeline.config import (
    AugmentationConfig,
    FinetuneConfig,
    ModelConfig,
    PatchConfig,
)
from selfie_pipeline.datasets.weights import Weights
from selfie_pipeline.provenance import configuration, digest

FROM_SCRATCH: dict[str, Any] = {
    "encoder": None,
    "pretraining_images": None,
    "configuration": {},
}
"""What the supervised arm has in the place of `from_encoder`."""


def from_encoder(encoder: Weights) -> dict[str, Any]:
    """What a classifier owes to its encoder."""
    made = encoder.provenance
    return {
        "encoder": encoder.digest(),
        "pretraining_images": made["pretraining_images"],
        "configuration": {
            "pretrain": made["configuration"]["pretrain"],
            "pretrained_on": made["data"],
        },
    }


def classifier_origin(
    pretraining: dict[str, Any],
    data: str,
    patch: PatchConfig,
    augmentation: AugmentationConfig,
    model: ModelConfig,
    recipe: FinetuneConfig,
) -> dict[str, Any]:
    """What all classifiers of an arm and a labeled fraction have in common.

    Args:
        pretraining: As `from_encoder` gives it, or `FROM_SCRATCH`.
        data: Fingerprint of the patch grids.
        patch: Parameters.
        augmentation: Parameters.
        model: Parameters.
        recipe: Parameters, with the values that the tuning found.

    Returns:
        Plain data. `tuned` has the tuned parameters by their dotted keys.
    """
    settings = configuration(patch=patch, augmentation=augmentation, model=model, finetune=recipe)
    return {
        "configuration": settings | pretraining["configuration"],
        "tuned": {f"finetune.{name}": getattr(recipe, name) for name in recipe.tuned},
        "data": data,
        "encoder": pretraining["encoder"],
        "pretraining_images": pretraining["pretraining_images"],
    }


def comparable(origin: dict[str, Any]) -> str:
    """A hash that results must share to stand in one row of the table, or in one column.

    It is of all parameters but the labeled fraction and the seed, and but the values that were
    tuned: those may differ from fraction to fraction.
    """
    settings = origin["configuration"]
    recipe = {
        key: value
        for key, value in settings["finetune"].items()
        if key not in settings["finetune"]["tuned"]
    }
    return digest({"configuration": settings | {"finetune": recipe}, "data": origin["data"]})
