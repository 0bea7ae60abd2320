"""Nodes of the exporting."""

from __future__ import annotations

from typing import Any

from safetensors.torch import save

from selfie_pipeline.config import ExportConfig, ModelConfig, UserError
from selfie_pipeline.models.classifier import restore_classifier
from selfie_pipeline.models.export import TOLERANCE, encoder_tensors, loader_source, to_onnx
from selfie_pipeline.models.preprocessing import load_preprocessing
from selfie_pipeline.report.model_card import model_card
from selfie_pipeline.weights import Weights

_FORMAT = {"format": "pt"}  # as timm and others expect of a safetensors file


def export_classifier(
    classifier: Weights,
    encoder: Weights,
    metrics: dict[str, Any],
    results: list[dict[str, Any]],
    export: ExportConfig,
) -> dict[str, bytes]:
    """Make the files that others need to use a classifier.

    Args:
        classifier: That of this run's labeled fraction and seed.
        encoder: Which it was finetuned from.
        metrics: Its result.
        results: Of all runs, for the other seeds'.
        export: Parameters.

    Returns:
        By name: the ONNX file and the model card; of a ResNet also its weights and those of P, and
        the code that loads them into timm.

    Raises:
        UserError: The three do not belong together, a library is missing, or ONNX Runtime does not
            agree with PyTorch.
    """
    _check_together(classifier, encoder, metrics)
    seen = load_preprocessing(classifier.provenance)
    configuration = classifier.provenance["configuration"]
    files = {
        "classifier.onnx": to_onnx(
            restore_classifier(classifier.tensors, classifier.provenance), seen.patch.image_size
        )
    }
    loader = None
    if configuration["finetune"]["architecture"] == "resnet":
        loader = loader_source(
            ModelConfig.model_validate(configuration["model"]),
            seen.classes,
            seen.patch.image_size,
            seen.mean.tolist(),
            seen.std.tolist(),
        )
        files |= {
            "load.py": loader.encode(),
            "resnetv2.safetensors": save(classifier.tensors, _FORMAT),
            "encoder.safetensors": save(encoder_tensors(encoder.tensors), _FORMAT),
        }
    card = model_card(
        metrics,
        results,
        classifier.provenance,
        licence=export.licence,
        loader=loader,
        tolerance=TOLERANCE,
    )
    return {**files, "README.md": card.encode()}


def _check_together(classifier: Weights, encoder: Weights, metrics: dict[str, Any]) -> None:
    if encoder.digest() != classifier.provenance["encoder"]:
        raise UserError(
            "the classifier was finetuned from another encoder than this one: run `kedro run "
            "--pipeline=finetune` again, or name its version with --load-versions=encoder:VERSION"
        )
    if classifier.digest() != metrics["provenance"]["classifier"]:
        raise UserError(
            "the result is another classifier's than this one: run `kedro run "
            "--pipeline=finetune` again, or name a version of both with --load-versions="
            "selfie_classifier:VERSION,selfie_metrics:VERSION"
        )
