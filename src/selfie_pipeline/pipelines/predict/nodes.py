"""Nodes of the pipeline `predict`."""

from __future__ import annotations

import logging
import os
import time
from functools import partial
from pathlib import Path
from typing import TypedDict

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from selfie_pipeline.config import ComputeConfig, PredictConfig, UserError
from selfie_pipeline.evaluation.predictions import name_predictions, select_least_certain
from selfie_pipeline.models.classifier import restore_classifier
from selfie_pipeline.models.export import OnnxClassifier, export_onnx
from selfie_pipeline.models.preprocessing import Preprocessing, load_preprocessing
from selfie_pipeline.printable import escape_controls
from selfie_pipeline.project import resolve_path
from selfie_pipeline.report.contact_sheet import draw_predictions
from selfie_pipeline.sources.decoding import map_ordered
from selfie_pipeline.sources.image_files import find_files, read_windows
from selfie_pipeline.training.device import Device, find_device, torch_threads
from selfie_pipeline.training.inference import Inference
from selfie_pipeline.training.lineage import name_arm
from selfie_pipeline.weights import Weights

_LOG = logging.getLogger(__name__)
_BATCH_SIZE = 64  # images; 64 small ones stay in a core's cache
_CONTACT_SHEET_IMAGES = 24


class UncertainImages(TypedDict):
    """The images on the contact sheet and their predictions."""

    images: NDArray[np.uint8]
    predictions: pd.DataFrame


def classify_files(
    classifier: Weights, images: str | None, predict: PredictConfig, compute: ComputeConfig
) -> tuple[pd.DataFrame, pd.DataFrame, UncertainImages]:
    """Classify image files, preprocessed like the test images.

    Returns:
        Predictions, one row per image, as `name_predictions` returns them; one row per unreadable
        file: file, reason; and the images that the classifier is least certain of.

    Raises:
        UserError: The files do not exist, the classifier is not of the arm `predict.arm`, or
            ONNX Runtime is requested and missing.
    """
    if images is None:
        raise UserError(
            "images is not set; name the folder of the images to classify: `kedro run "
            "--pipeline=predict --params images=path/to/folder`"
        )
    preprocessing = load_preprocessing(classifier.provenance)
    _check_arm(classifier, predict)
    folder, files = find_files(resolve_path(images))
    infer = _build_inference(classifier, preprocessing, predict, compute)
    start = time.monotonic()
    logits, reasons = _infer_files(infer, files, preprocessing)
    rate = len(files) / (time.monotonic() - start)
    names = [_format_path(file, folder) for file in files]
    table = pd.DataFrame({"file": names, "reason": reasons})
    readable, unreadable = table[table["reason"].isna()], table[table["reason"].notna()]
    _LOG.info("Classified %d images, %.0f files per second", len(readable), rate)
    if len(unreadable):
        _LOG.warning("%d files are not readable images; see unreadable_images", len(unreadable))
    predictions = name_predictions(readable["file"].tolist(), logits, preprocessing.classes)
    predictions = predictions.set_index(readable.index)
    uncertain = select_least_certain(predictions, _CONTACT_SHEET_IMAGES)
    read = partial(read_windows, patch=preprocessing.patch)
    # The files are read again; `map_ordered` suppresses Pillow's warnings about them.
    [(windows, _)] = map_ordered(read, [[files[row] for row in uncertain.index]])
    return predictions, unreadable, UncertainImages(images=windows, predictions=uncertain)


def _infer_files(
    infer: Inference, files: list[Path], preprocessing: Preprocessing
) -> tuple[NDArray[np.float32], list[str | None]]:
    """Return logits (N, classes) of the readable files, and per file the reason it can't be read.

    The reason is None for a readable file.
    """
    empty = np.empty((0, len(preprocessing.classes)), dtype=np.float32)

    def infer_batch(batch: list[Path]) -> tuple[NDArray[np.float32], list[str | None]]:
        windows, reasons = read_windows(batch, preprocessing.patch)
        images = torch.from_numpy(windows).permute(0, 3, 1, 2)  # (n, C, H, W)
        return infer(images) if len(images) else empty, reasons

    logits: list[NDArray[np.float32]] = [empty]
    reasons: list[str | None] = []
    batches = [files[first : first + _BATCH_SIZE] for first in range(0, len(files), _BATCH_SIZE)]
    with (
        torch_threads(1),  # threads that share a batch of small images wait for each other
        tqdm(total=len(files), desc="predict", unit=" files", delay=5, disable=None) as progress,
    ):
        for batch_logits, batch_reasons in map_ordered(infer_batch, batches):
            logits.append(batch_logits)
            reasons += batch_reasons
            progress.update(len(batch_reasons))
    return np.concatenate(logits), reasons


def _build_inference(
    classifier: Weights,
    preprocessing: Preprocessing,
    predict: PredictConfig,
    compute: ComputeConfig,
) -> Inference:
    network = restore_classifier(classifier.tensors, classifier.provenance)
    mean, std = preprocessing.mean, preprocessing.std
    if predict.runtime == "torch":
        return Inference(network, mean, std, find_device(compute))
    converted = OnnxClassifier(export_onnx(network, preprocessing.patch.image_size))
    return Inference(converted, mean, std, Device("cpu", bf16=False))


def draw_contact_sheet(uncertain: UncertainImages) -> Figure:
    """Draw the images that the classifier is least certain of."""
    title = "Images with the least certain predictions, the least certain first"
    return draw_predictions(**uncertain, title=title)


def _format_path(file: Path, folder: Path) -> str:
    """Return a file's path relative to the folder; what can't be printed is escaped."""
    path = os.fsencode(file.relative_to(folder).as_posix())
    return escape_controls(path.decode("utf-8", "backslashreplace"))


def _check_arm(classifier: Weights, predict: PredictConfig) -> None:
    """Check that the catalog loaded a classifier of the arm that the parameters name."""
    arm = name_arm(classifier.provenance["configuration"]).removeprefix("weights_")
    if arm != predict.arm:
        raise UserError(
            f"predict.arm = {predict.arm}, but the catalog has a classifier of the arm {arm}; set "
            f"it with --params predict.arm={predict.arm}, or `arm` in globals.yml"
        )
