"""Nodes of the predicting."""

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
from kedro.utils import find_kedro_project
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from selfie_pipeline.config import ComputeConfig, PredictConfig, UserError
from selfie_pipeline.evaluation.predictions import least_certain, named_predictions
from selfie_pipeline.models.classifier import restore_classifier
from selfie_pipeline.models.export import to_onnx
from selfie_pipeline.models.onnx_runtime import OnnxClassifier
from selfie_pipeline.models.preprocessing import Preprocessing, load_preprocessing
from selfie_pipeline.report.contact_sheet import contact_sheet
from selfie_pipeline.sources.decoding import in_order
from selfie_pipeline.sources.image_files import list_files, read_windows
from selfie_pipeline.training.device import Device, find_device
from selfie_pipeline.training.inference import Inference, single_threaded_torch
from selfie_pipeline.weights import Weights

_LOG = logging.getLogger(__name__)
_BATCH = 64  # of small images, so many stay in a core's cache
_ON_THE_SHEET = 24


class Uncertain(TypedDict):
    """What `contact_sheet` draws."""

    images: NDArray[np.uint8]
    predictions: pd.DataFrame


def classify_files(
    classifier: Weights, images: str | None, predict: PredictConfig, compute: ComputeConfig
) -> tuple[pd.DataFrame, pd.DataFrame, Uncertain]:
    """Classify all image files in a folder and below, prepared as the test images were.

    Returns:
        One row an image, as `named_predictions` makes it; one row a file that gives no image:
        file, reason; and the images that the classifier is least certain of.

    Raises:
        UserError: There is no such folder, the classifier is not one of `predict.arm`, or ONNX
            Runtime is to compute it and can't.
    """
    folder = _folder(images)
    _check_arm(classifier, predict)
    seen = load_preprocessing(classifier.provenance)
    files = list_files(folder)
    infer = _inference(classifier, seen, predict, compute)
    nothing = np.empty((0, len(seen.classes)), dtype=np.float32)

    def classify(some: list[Path]) -> tuple[NDArray[np.float32], list[str | None]]:
        """Logits (n, classes) of those that give an image, and why the others do not."""
        windows, reasons = read_windows(some, seen.patch)
        images = torch.from_numpy(windows).permute(0, 3, 1, 2)  # (n, C, H, W)
        return infer(images) if len(images) else nothing, reasons

    logits: list[NDArray[np.float32]] = [nothing]
    reasons: list[str | None] = []
    batches = [files[first : first + _BATCH] for first in range(0, len(files), _BATCH)]
    start = time.monotonic()
    with (
        single_threaded_torch(),
        tqdm(total=len(files), desc="predict", unit=" files", delay=5, disable=None) as progress,
    ):
        for of_batch, why_not in in_order(classify, batches):
            logits.append(of_batch)
            reasons += why_not
            progress.update(len(why_not))
    rate = len(files) / (time.monotonic() - start)
    places = [_place(file, folder) for file in files]
    table = pd.DataFrame({"file": places, "reason": reasons})
    readable, unreadable = table[table["reason"].isna()], table[table["reason"].notna()]
    _LOG.info("Classified %d images, %.0f files a second", len(readable), rate)
    if len(unreadable):
        _LOG.warning("%d files give no image; unreadable_images lists them", len(unreadable))
    predictions = named_predictions(
        readable["file"].tolist(), np.concatenate(logits), seen.classes
    ).set_index(readable.index)
    chosen = least_certain(predictions, _ON_THE_SHEET)
    again = [files[row] for row in chosen.index]
    ((shown, _),) = in_order(partial(read_windows, patch=seen.patch), [again])
    return predictions, unreadable, Uncertain(images=shown, predictions=chosen)


def _inference(
    classifier: Weights, seen: Preprocessing, predict: PredictConfig, compute: ComputeConfig
) -> Inference:
    network = restore_classifier(classifier.tensors, classifier.provenance)
    if predict.runtime == "torch":
        return Inference(network, seen.mean, seen.std, find_device(compute))
    converted = OnnxClassifier(to_onnx(network, seen.patch.image_size))
    return Inference(converted, seen.mean, seen.std, Device("cpu", bf16=False))


def draw_contact_sheet(uncertain: Uncertain) -> Figure:
    """Show the images that the classifier is least certain of."""
    return contact_sheet(**uncertain)


def _folder(images: str | None) -> Path:
    if images is None:
        raise UserError(
            "images is not set; name the folder of the images to classify: `kedro run "
            "--pipeline=predict --params images=path/to/folder`"
        )
    return (find_kedro_project(Path.cwd()) or Path.cwd()) / images


def _place(file: Path, folder: Path) -> str:
    """Where a file lies in the folder; a name that is no UTF-8 is written out."""
    return os.fsencode(file.relative_to(folder).as_posix()).decode("utf-8", "backslashreplace")


def _check_arm(classifier: Weights, predict: PredictConfig) -> None:
    """Check that the catalog found the classifier that the parameters name."""
    arm = "selfie" if classifier.provenance["encoder"] else "supervised"
    if arm != predict.arm:
        raise UserError(
            f"predict.arm = {predict.arm}, but the classifier found is of {arm}: set it with "
            f"--params predict.arm={predict.arm}, or `arm` in globals.yml"
        )
