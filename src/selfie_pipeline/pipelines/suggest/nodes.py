"""Nodes of the pipeline `suggest`."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from selfie_pipeline.config import (
    AugmentationConfig,
    ComputeConfig,
    PatchConfig,
    SuggestConfig,
    UserError,
)
from selfie_pipeline.datasets.patch_grids import PatchGrids
from selfie_pipeline.evaluation.predictions import TopTwo, find_top_two, name_predictions
from selfie_pipeline.evaluation.suggestions import select_diverse
from selfie_pipeline.models.classifier import restore_classifier
from selfie_pipeline.models.selfie import restore_encoder
from selfie_pipeline.report.contact_sheet import CONTACT_SHEET_IMAGES, draw_predictions
from selfie_pipeline.training.data.batches import open_windows
from selfie_pipeline.training.device import find_device
from selfie_pipeline.training.inference import compute_outputs
from selfie_pipeline.training.lineage import check_encoder, fingerprint_data
from selfie_pipeline.weights import Weights

_LOG = logging.getLogger(__name__)
_CHUNK = 65_536  # images whose logits are in memory at once


def suggest_images(
    classifier: Weights,
    encoder: Weights,
    samples: pd.DataFrame,
    labeled_samples: pd.DataFrame,
    patch_grids: PatchGrids,
    patch: PatchConfig,
    augmentation: AugmentationConfig,
    suggest: SuggestConfig,
    compute: ComputeConfig,
    seed: int,
) -> tuple[pd.DataFrame, Figure]:
    """Choose the images most worth labeling, outside the test split and the labeled subset.

    Returns:
        A label table, the least certain image first: file, class (empty, to be filled in),
        prediction and probability; and a contact sheet of the first images.

    Raises:
        UserError: There is no such image, or the classifier is of other data, another subset or
            another encoder.
    """
    check_encoder(encoder, classifier.provenance, "the classifier")
    pool = _find_pool(classifier, samples, labeled_samples, patch_grids)
    network = restore_classifier(classifier.tensors, classifier.provenance)
    images, device = open_windows(patch_grids, patch, augmentation), find_device(compute)
    rows = pool["sample"].to_numpy()  # (N,)
    chunks = np.split(rows, range(_CHUNK, len(rows), _CHUNK))
    classes = classifier.provenance["classes"]
    tops = [
        find_top_two(compute_outputs(network, images, chunk, device, "classify"))
        for chunk in chunks
    ]
    top = TopTwo(*map(np.concatenate, zip(*tops, strict=True)))  # of N images
    margins = top.probabilities[:, 0] - top.probabilities[:, 1]  # (N,)
    unsure = np.argsort(margins, kind="stable")[: suggest.count * suggest.candidates]  # (M,)
    patch_network = restore_encoder(encoder.tensors, encoder.provenance).patch_network
    vectors = compute_outputs(patch_network, images, rows[unsure], device, "embed")  # (M, D)
    chosen = unsure[select_diverse(vectors, margins[unsure], suggest.count, seed)]
    top = TopTwo(top.labels[chosen], top.probabilities[chosen])  # of count images
    predictions = name_predictions(pool["place"].iloc[chosen].tolist(), top, classes)
    shown = predictions[:CONTACT_SHEET_IMAGES]
    sheet = draw_predictions(
        images.read_pictures(rows[chosen[: len(shown)]]),  # (n, H, W, C)
        shown,
        title="Images most worth labeling, the least certain first",
    )
    _LOG.info(
        "suggest: %s of %s unlabeled images; fill in the column class of suggestions",
        f"{len(chosen):,}",
        f"{len(pool):,}",
    )
    table = predictions[["file", "class", "probability"]].rename(columns={"class": "prediction"})
    table.insert(1, "class", "")
    return table, sheet


def _find_pool(
    classifier: Weights,
    samples: pd.DataFrame,
    labeled_samples: pd.DataFrame,
    patch_grids: PatchGrids,
) -> pd.DataFrame:
    """Return the samples whose label the finetuning did not use and the test does not either."""
    provenance = classifier.provenance
    if (provenance["data"], provenance["labels"]) != (
        fingerprint_data(patch_grids, samples),
        len(labeled_samples),
    ):
        raise UserError(
            "the classifier was finetuned on other data or labels than those in the catalog: run "
            "`kedro run --pipeline=finetune` again, or load a matching version with "
            "--load-versions=selfie_classifier:VERSION"
        )
    used = samples["sample"].isin(labeled_samples["sample"])
    pool = samples[~used & (samples["split"] != "test")]
    if pool.empty:
        raise UserError(
            f"there is nothing to label: the finetuning used the labels of all "
            f"{len(labeled_samples):,} images outside the test split; add images without labels"
        )
    if (pool["label"] >= 0).any():
        _LOG.warning(
            "suggest: the finetuning used a part of the labels; the next one draws its part anew, "
            "which may leave out those that you add: set labeled_frac=1"
        )
    return pool
