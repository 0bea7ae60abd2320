"""The lineage of a classifier: the part of its provenance that is known before its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import pandas as pd

from selfie_pipeline.config import (
    Arm,
    AugmentationConfig,
    FinetuneConfig,
    ModelConfig,
    PatchConfig,
    UserError,
)
from selfie_pipeline.provenance import (
    DATA_PARAMETERS,
    dump_configuration,
    hash_json,
    readable_provenance,
)
from selfie_pipeline.weights import Weights


class StoredImages(Protocol):
    """The attributes of `PatchGrids` that identify the data of a training."""

    fingerprint: str
    unreadable: dict[int, str]

    def __len__(self) -> int:
        """Return the number of samples."""


def initial_weights_lineage(initial: Weights | None) -> dict[str, Any]:
    """Return the part of a classifier's lineage that its initial weights determine.

    Args:
        initial: An encoder, or given weights, or None for an arm from scratch.

    Raises:
        UserError: See `pretraining_lineage`.
    """
    if initial is not None and not is_given(initial):
        return pretraining_lineage(initial)
    given = {} if initial is None else {"weights": initial.provenance["weights"]}
    return {"encoder": None, "pretraining_images": None, "configuration": given}


def is_given(weights: Weights) -> bool:
    """Return whether these are given weights, from `datasets.weights.read_given_weights`."""
    return "weights" in weights.provenance


def name_arm(configuration: Mapping[str, Any]) -> Arm:
    """Return the arm of a classifier with this configuration."""
    if (pretrain := configuration.get("pretrain")) is None:
        return "weights" if "weights" in configuration else "supervised"
    return "weights_selfie" if "weights" in pretrain else "selfie"


def pretraining_lineage(encoder: Weights) -> dict[str, Any]:
    """Return the part of a classifier's lineage that its encoder determines.

    Raises:
        UserError: The encoder's provenance lacks it, because another version of this project made
            it.
    """
    provenance = encoder.provenance
    with readable_provenance("encoder", "pretraining"):
        return {
            "encoder": encoder.digest(),
            "pretraining_images": provenance["pretraining_images"],
            "configuration": {
                "pretrain": provenance["configuration"]["pretrain"],
                "pretrained_on": provenance["data"],
            },
        }


def check_encoder(encoder: Weights, finetuned: Mapping[str, Any], subject: str) -> None:
    """Check that a classifier or its result was finetuned from this encoder.

    Args:
        encoder: The encoder.
        finetuned: The provenance of the other one.
        subject: What it is, for the message.

    Raises:
        UserError: It was finetuned from another.
    """
    if encoder.digest() != finetuned["encoder"]:
        raise UserError(
            f"{subject} was finetuned from a different encoder: run `kedro run "
            "--pipeline=finetune` again, or load its encoder with --load-versions=encoder:VERSION"
        )


def fingerprint_data(patch_grids: StoredImages, samples: pd.DataFrame) -> str:
    """Return the fingerprint of the patch grids; with `data.drop_leaked`, of those that remain."""
    dropped = set(range(len(patch_grids))) - set(samples["sample"]) - set(patch_grids.unreadable)
    if not dropped:
        return patch_grids.fingerprint
    return hash_json({"patch_grids": patch_grids.fingerprint, "dropped": sorted(dropped)})


def fingerprint_splits(samples: pd.DataFrame) -> dict[str, str]:
    """Return the name of the data set, and hashes of the places in the test split and outside."""
    is_test = samples["split"] == "test"
    return {
        "data": samples.attrs.get(DATA_PARAMETERS, {}).get("name", ""),
        "test": hash_json({"places": sorted(samples.loc[is_test, "place"])}),
        "others": hash_json({"places": sorted(samples.loc[~is_test, "place"])}),
    }


def excludes_test_split(encoder: Weights, samples: pd.DataFrame) -> bool | None:
    """Return whether an encoder's pretraining excluded the images that the samples exclude.

    These are the test split's, and with `data.drop_leaked` their copies. Adding other images to
    the training does not matter.

    Returns:
        False if the split has changed since; None for an encoder of another data set or of an
        earlier commit, whose splits are unknown.
    """
    then = encoder.provenance.get("splits")
    if then is None or then["data"] != (now := fingerprint_splits(samples))["data"]:
        return None
    drops = samples.attrs.get(DATA_PARAMETERS, {}).get("drop_leaked", False)
    return all(then[name] == now[name] for name in (("test", "others") if drops else ("test",)))


def classifier_lineage(
    pretraining: dict[str, Any],
    data: str,
    patch: PatchConfig,
    augmentation: AugmentationConfig,
    model: ModelConfig,
    recipe: FinetuneConfig,
) -> dict[str, Any]:
    """Return the lineage that all classifiers of an arm and a labeled fraction share.

    `pretraining` is from `initial_weights_lineage`, and `data` from `fingerprint_data`; `recipe`
    has the values that the tuning found.

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
