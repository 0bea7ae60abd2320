"""Node of the pipeline `ratio`."""

from __future__ import annotations

import logging
from typing import Any

from selfie_pipeline.config import (
    AugmentationConfig,
    ModelConfig,
    PatchConfig,
    PretrainConfig,
    RatioConfig,
    UserError,
)
from selfie_pipeline.project import CellsFailedError, Project
from selfie_pipeline.provenance import dump_configuration, find_differences
from selfie_pipeline.training.lineage import pretraining_lineage
from selfie_pipeline.weights import Weights

_LOG = logging.getLogger(__name__)


def run_ratio(
    encoder: Weights,
    project: Project,
    patch: PatchConfig,
    augmentation: AugmentationConfig,
    model: ModelConfig,
    recipe: PretrainConfig,
    ratio: RatioConfig,
) -> None:
    """Run the experiment with encoders of fewer images, which are pretrained if necessary.

    The given encoder was pretrained on all images; `recipe` is that of all encoders.

    Raises:
        UserError: The encoder was pretrained with other parameters than these, from given weights,
            or on fewer images than `ratio.images` asks for.
        CellsFailedError: Cells failed; those of the other encoders are run all the same.
    """
    if recipe.weights is not None:
        raise UserError(
            "ratio compares encoders that were pretrained from scratch; leave pretrain.weights out"
        )
    available = pretraining_lineage(encoder)["pretraining_images"]
    if max(ratio.images) > available:
        raise UserError(
            f"ratio.images has {max(ratio.images)}, but there are {available} images to pretrain "
            f"on; allowed: {available} or less"
        )

    def dump_settings(images: int | None) -> dict[str, Any]:
        pretrain = recipe.model_copy(update={"images": images})
        return dump_configuration(
            patch=patch, augmentation=augmentation, model=model, pretrain=pretrain
        )

    made_with = encoder.provenance["configuration"]
    changes = [  # a value that is not recorded is the default
        f"{key} = {old}, now {new}"
        for key, old, new in find_differences(made_with, dump_settings(None), "the default")
    ]
    if changes:
        raise UserError(
            f"the encoder was pretrained with other parameters ({', '.join(changes)}), so it can't "
            "be compared with encoders of fewer images; set these with --params, or run `kedro run "
            "--pipeline=pretrain` first"
        )
    pair = {"arms": ["supervised", "selfie"]}  # others have no encoder of fewer images
    failures: list[str] = []
    for images in ratio.images:
        found: Weights | None = project.load("encoder", pretrain={"images": images})
        expected = {"configuration": dump_settings(images), "data": encoder.provenance["data"]}
        if found is None or any(found.provenance.get(key) != expected[key] for key in expected):
            _LOG.info("ratio: pretraining on %d images", images)
            # A run of its own, whose checkpoints are removed even if a cell fails later.
            project.run("pretrain", pretrain={"images": images})
            project.load("encoder", pretrain={"images": images})  # for the cells, not an older one
        try:
            project.run("cells", pretrain={"images": images}, experiment=pair)
        except CellsFailedError as error:
            failures += [f"{images} images, {failure}" for failure in error.failures]
    try:
        project.run("experiment")
    except CellsFailedError as error:
        failures += error.failures
    if failures:
        raise CellsFailedError(failures)
