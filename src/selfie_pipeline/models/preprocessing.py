"""The preprocessing of a classifier's images, read from its provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfie_pipeline.config import PatchConfig
from selfie_pipeline.printable import escape_controls
from selfie_pipeline.provenance import readable_provenance


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of a classifier's images, and the names of its outputs.

    Attributes:
        patch: Patch-grid parameters, for the sizes of canvas and window.
        mean: (C,): mean of the training pixels, for pixels scaled to 0 to 1.
        std: (C,): standard deviation of the training pixels, for pixels scaled to 0 to 1.
        classes: Names of the classes, by label, without control characters.
    """

    patch: PatchConfig
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    classes: list[str]


def load_preprocessing(provenance: Mapping[str, Any]) -> Preprocessing:
    """Read the preprocessing that a classifier was trained and tested with.

    Raises:
        UserError: The provenance lacks it, because another version of this project made it.
    """
    with readable_provenance("classifier", "preprocessing"):
        return Preprocessing(
            patch=PatchConfig.model_validate(provenance["configuration"]["patch"]),
            mean=np.array(provenance["mean"], dtype=np.float32),
            std=np.array(provenance["std"], dtype=np.float32),
            classes=[escape_controls(str(name)) for name in provenance["classes"]],
        )
