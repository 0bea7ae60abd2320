"""What a classifier says about its images and its answers, so that it can be used on its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfie_pipeline.config import PatchConfig, UserError


@dataclass(frozen=True)
class Preprocessing:
    """How an image comes to a classifier, and what its outputs are called."""

    patch: PatchConfig
    """For the sizes of canvas and window."""
    mean: NDArray[np.float32]
    """(C,): of the training pixels, in units of 255."""
    std: NDArray[np.float32]
    """(C,), likewise."""
    classes: list[str]
    """By label."""


def load_preprocessing(provenance: Mapping[str, Any]) -> Preprocessing:
    """That which the classifier was trained and tested with.

    Raises:
        UserError: It does not say so: the classifier is another version's of this project.
    """
    try:
        return Preprocessing(
            patch=PatchConfig.model_validate(provenance["configuration"]["patch"]),
            mean=np.array(provenance["mean"], dtype=np.float32),
            std=np.array(provenance["std"], dtype=np.float32),
            classes=[str(name) for name in provenance["classes"]],
        )
    except (KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the classifier does not say how images are to be prepared for it ({reason}): another "
            "version of this project made it; make it anew with `kedro run "
            "--pipelines=finetune,baseline`"
        ) from None
