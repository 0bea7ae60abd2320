"""Nodes of the pipeline `embed`."""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd

from selfie_pipeline.config import (
    AugmentationConfig,
    ComputeConfig,
    EmbedConfig,
    PatchConfig,
    UserError,
)
from selfie_pipeline.datasets.patch_grids import PatchGrids
from selfie_pipeline.evaluation.embedding import score_vectors
from selfie_pipeline.models.embedding import ImageEmbedding
from selfie_pipeline.models.selfie import Selfie, restore_encoder
from selfie_pipeline.provenance import describe_environment, dump_configuration
from selfie_pipeline.training.data.batches import open_windows
from selfie_pipeline.training.device import find_device
from selfie_pipeline.training.inference import compute_outputs
from selfie_pipeline.training.lineage import fingerprint_data
from selfie_pipeline.weights import Weights

_LOG = logging.getLogger(__name__)


def embed_samples(
    encoder: Weights,
    samples: pd.DataFrame,
    patch_grids: PatchGrids,
    patch: PatchConfig,
    augmentation: AugmentationConfig,
    embed: EmbedConfig,
    compute: ComputeConfig,
) -> pd.DataFrame:
    """Compute one vector per sample, from its central window.

    Returns:
        One row per sample: sample, split, label (-1 for none), class_name, and vector, a float32
        array of length D.

    Raises:
        UserError: The encoder does not fit the images, or its pretraining diverged.
    """
    selfie = load_encoder(encoder, patch, embed)
    on_patches = embed.layer == "u"
    network = ImageEmbedding(selfie, patch.patch_size) if on_patches else selfie.patch_network
    images = open_windows(patch_grids, patch, augmentation)
    rows = samples["sample"].to_numpy()
    vectors = compute_outputs(network, images, rows, find_device(compute), "embed")  # (M, D)
    table = samples[["sample", "split", "label", "class_name"]]
    return table.assign(vector=pd.Series(list(vectors), index=table.index, dtype=object))


def load_encoder(encoder: Weights, patch: PatchConfig, embed: EmbedConfig) -> Selfie:
    """Build the network of an encoder with the configuration that it was pretrained with.

    Raises:
        UserError: The layer is u, and the encoder was pretrained with another patch grid; or its
            provenance does not describe it, because another version of this project made it.
    """
    network = restore_encoder(encoder.tensors, encoder.provenance)
    pretrained = PatchConfig.model_validate(encoder.provenance["configuration"]["patch"])
    if embed.layer == "u" and pretrained.grid_size != patch.grid_size:
        raise UserError(
            f"embed.layer = u, but the encoder was pretrained with {pretrained.grid_size} × "
            f"{pretrained.grid_size} patches, and these images have {patch.grid_size} × "
            f"{patch.grid_size}; allowed: stage3, or an encoder pretrained with the same grid"
        )
    return network


def score_embeddings(
    embeddings: pd.DataFrame, encoder: Weights, patch_grids: PatchGrids, embed: EmbedConfig
) -> dict[str, Any]:
    """Score the vectors on the test split, once; nothing is chosen by these scores.

    Returns:
        The layer, the length of a vector, the scores as `score_vectors` returns them (None without
        labels), and the provenance of the vectors.
    """
    scores = score_vectors(embeddings)
    if scores is None:
        _LOG.warning("embed: no scores, because the train or test split has no labels")
    else:
        _LOG.info(
            "embed: test accuracy %.1f %% (nearest neighbours), %.1f %% (linear probe); %s labels",
            100 * scores["knn"]["accuracy"],
            100 * scores["linear_probe"]["accuracy"],
            f"{scores['train_samples']:,}",
        )
    provenance = {
        "configuration": dump_configuration(embed=embed) | encoder.provenance["configuration"],
        "encoder": encoder.digest(),
        "data": fingerprint_data(patch_grids, embeddings),
        **describe_environment(),
    }
    return {
        "layer": embed.layer,
        "dimensions": len(embeddings["vector"].iloc[0]),
        "scores": scores,
        "provenance": provenance,
    }
