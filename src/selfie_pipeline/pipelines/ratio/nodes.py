"""Nodes of the ratio of unlabeled to labeled images."""

from __future__ import annotations

import logging

from selfie_pipeline.config import (
    AugmentationConfig,
    ModelConfig,
    PatchConfig,
    PretrainConfig,
    RatioConfig,
    UserError,
)
from selfie_pipeline.project import Project
from selfie_pipeline.provenance import configuration, leaves
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
    """Pretrain on fewer images where that has not been done, and run the experiment for each.

    Args:
        encoder: The one that saw all images.
        project: Runs pretrainings and cells.
        patch: Parameters.
        augmentation: Parameters.
        model: Parameters.
        recipe: Parameters, of the others as of the one.
        ratio: How many images each of the others sees.

    Raises:
        UserError: The encoder was made with other parameters than the others would be.
    """

    def wanted(images: int | None) -> dict[str, object]:
        pretrain = recipe.model_copy(update={"images": images})
        settings = configuration(
            patch=patch, augmentation=augmentation, model=model, pretrain=pretrain
        )
        return dict(leaves(settings))

    ours, theirs = dict(leaves(encoder.provenance["configuration"])), wanted(None)
    different = [key for key in theirs if ours.get(key) != theirs[key]]
    if different:
        changes = ", ".join(f"{key} = {ours.get(key)}, now {theirs[key]}" for key in different)
        raise UserError(
            f"the encoder was pretrained with other parameters ({changes}), so encoders of fewer "
            "images could not be compared with it: set these with --params, or run `kedro run "
            "--pipeline=pretrain` first"
        )
    for images in ratio.images:
        there: Weights | None = project.load("encoder", pretrain={"images": images})
        if there is None or dict(leaves(there.provenance["configuration"])) != wanted(images):
            _LOG.info("ratio: pretraining on %d images", images)
            project.run("pretrain", pretrain={"images": images})
        project.run("cells", pretrain={"images": images})
    project.run("experiment")
