"""Nodes of the pipeline `predict`."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from selfie_pipeline.config import ComputeConfig, PredictConfig, UserError
from selfie_pipeline.evaluation.predictions import name_predictions, select_least_certain
from selfie_pipeline.models.classifier import restore_classifier
from selfie_pipeline.models.export import OnnxClassifier, export_onnx
from selfie_pipeline.models.preprocessing import Preprocessing, load_preprocessing
from selfie_pipeline.pipelines.predict.blocks import classify_in_blocks
from selfie_pipeline.printable import escape_controls
from selfie_pipeline.project import resolve_path
from selfie_pipeline.provenance import describe_environment, hash_json
from selfie_pipeline.report.contact_sheet import CONTACT_SHEET_IMAGES, draw_predictions
from selfie_pipeline.sources.decoding import log_oddities, map_ordered
from selfie_pipeline.sources.folders import escape_name
from selfie_pipeline.sources.image_files import find_files, read_windows
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.device import Device, find_device
from selfie_pipeline.training.inference import Inference
from selfie_pipeline.weights import Weights

_LOG = logging.getLogger(__name__)


def classify_files(
    classifier: Weights,
    images: str | None,
    predict: PredictConfig,
    compute: ComputeConfig,
    checkpoints: Path,
    resume: Literal["auto", "never"],
) -> tuple[pd.DataFrame, pd.DataFrame, Figure]:
    """Classify image files, preprocessed like the test images.

    Args:
        classifier: The classifier.
        images: A file, a folder or a pattern; see `find_files`.
        predict: Prediction parameters.
        compute: Compute parameters.
        checkpoints: Folder for finished blocks of files; that of this classifier is beside it.
        resume: `auto` resumes an interrupted run; `never` restarts it.

    Returns:
        Predictions, one row per image, as `name_predictions` returns them; one row per unreadable
        file: file, reason; and a contact sheet of the least certain images.

    Raises:
        UserError: The files do not exist, ONNX Runtime is requested and missing, or see
            `classify_in_blocks`.
    """
    if images is None:
        raise UserError(
            "images is not set; name the folder of the images to classify: `kedro run "
            "--pipeline=predict --params images=path/to/folder`"
        )
    preprocessing = load_preprocessing(classifier.provenance)
    path = resolve_path(images)
    folder, names = find_files(path)
    infer = _build_inference(classifier, preprocessing, predict, compute)
    identity = {
        "images": str(path),
        "classifier": classifier.digest(),
        "provenance": hash_json(classifier.provenance),  # the preprocessing is in it
        "runtime": predict.runtime,
        "device": infer.device.type,
        "precision": infer.device.precision,
        "versions": describe_environment()["versions"],
    }
    state = Checkpoints(checkpoints, identity, every=1, resume=resume, keep=None)
    top, reasons, oddities = classify_in_blocks(infer, folder, names, preprocessing, state)
    is_readable = np.array([reason is None for reason in reasons])  # (N,)
    readable, unreadable = np.flatnonzero(is_readable), np.flatnonzero(~is_readable)
    _LOG.info("predict: %d images classified", len(readable))
    if len(unreadable):
        _LOG.warning("predict: %d unreadable files; see unreadable_images", len(unreadable))
    log_oddities(oddities)
    files = [_format_path(names[row]) for row in readable]
    predictions = name_predictions(files, top, preprocessing.classes).set_index(readable)
    uncertain = select_least_certain(predictions, CONTACT_SHEET_IMAGES)
    read = partial(read_windows, patch=preprocessing.patch)
    # The files are read again; `map_ordered` suppresses Pillow's warnings about them.
    [(windows, gone, _)] = map_ordered(read, [[folder / names[row] for row in uncertain.index]])
    uncertain = uncertain[[reason is None for reason in gone]]  # or deleted meanwhile
    refused = {
        "file": [_format_path(names[row]) for row in unreadable],
        "reason": [reasons[row] for row in unreadable],
    }
    title = "Images with the least certain predictions, the least certain first"
    return predictions, pd.DataFrame(refused), draw_predictions(windows, uncertain, title=title)


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


def _format_path(name: str) -> str:
    """Return a file's path; what can't be printed is escaped."""
    return escape_controls(escape_name(name))
