"""The lineage of a classifier: the part of its provenance that is known before its training."""

from __future__ import annotations

from typing import Any

from selfie_pipeline.config import (
    AugmentationConfig,
    FinetuneConfig,
    ModelConfig,
    PatchConfig,
)
from selfie_pipeline.provenance import dump_configuration, hash_json
from selfie_pipeline.weights import Weights

FROM_SCRATCH: dict[str, Any] = {
    "encoder": None,
    "pretraining_images": None,
    "configuration": {},
}
"""The pretraining part of the supervised arm's lineage; see `pretraining_lineage`."""


def pretraining_lineage(encoder: Weights) -> dict[str, Any]:
    """Return the part of a classifier's lineage that its encoder determines."""
    made = encoder.provenance
    return {
        "encoder": encoder.digest(),
        "pretraining_images": made["pretraining_images"],
        "configuration": {
            "pretrain": made["configuration"]["pretrain"],
            "pretrained_on": made["data"],
        },
    }


def classifier_lineage(
    pretraining: dict[str, Any],
    data: str,
    patch: PatchConfig,
    augmentation: AugmentationConfig,
    model: ModelConfig,
    recipe: FinetuneConfig,
) -> dict[str, Any]:
    """Return the lineage that all classifiers of an arm and a labeled fraction share.

    Args:
        pretraining: As `pretraining_lineage` returns it, or `FROM_SCRATCH`.
        data: Fingerprint of the patch grids.
        patch: Patch-grid parameters.
        augmentation: Augmentation parameters.
        model: Model parameters.
        recipe: Finetuning parameters, with the values that the tuning found.

    Returns:
        Plain data. `tuned` has the tuned parameters by their dotted keys.
    """
    settings = dump_configuration(
        patch=patch, augmentation=augmentation, model=model, finetune=recipe
    )
    return {
        "configuration": settings | pretraining["configuration"],
        "tuned": {f"finetune.{name}": getattr(recipe, name) for name in recipe.tuned},
        "data": data,
        "encoder": pretraining["encoder"],
        "pretraining_images": pretraining["pretraining_images"],
    }


def comparison_key(lineage: dict[str, Any]) -> str:
    """Return a hash that results must share to be compared in one row or column of the table.

    It covers all parameters but the labeled fraction, the seed, and the values that were tuned:
    those may differ from fraction to fraction.
    """
    settings = lineage["configuration"]
    recipe = {
        key: value
        for key, value in settings["finetune"].items()
        if key not in settings["finetune"]["tuned"]
    }
    return hash_json({"configuration": settings | {"finetune": recipe}, "data": lineage["data"]})
