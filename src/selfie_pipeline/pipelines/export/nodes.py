"""Node of the pipelines that export a classifier."""

from __future__ import annotations

from typing import Any

from safetensors.torch import save

from selfie_pipeline.config import ExportConfig, ModelConfig, UserError
from selfie_pipeline.models.classifier import restore_classifier
from selfie_pipeline.models.export import (
    TOLERANCE,
    export_image_classifier,
    render_loader,
    select_patch_network,
)
from selfie_pipeline.models.preprocessing import load_preprocessing
from selfie_pipeline.report.model_card import render_model_card
from selfie_pipeline.training.lineage import check_encoder
from selfie_pipeline.weights import Weights

_METADATA = {"format": "pt"}  # expected by timm and other readers of safetensors files


def export_classifier(
    classifier: Weights,
    metrics: dict[str, Any],
    results: list[dict[str, Any]],
    export: ExportConfig,
    pretrained_on: str,
    encoder: Weights | None = None,
) -> dict[str, bytes]:
    """Create the files for using a classifier outside this project.

    The classifier is that of this run's labeled fraction and seed, and `metrics` is its result;
    `results` has those of all runs, for the other seeds; `pretrained_on` is the encoder's recipe.
    Only a classifier of Selfie has an encoder.

    Returns:
        Contents by file name: the ONNX file and the model card. For a ResNet, also its weights,
        those of the encoder's P, and the code that loads them into timm.

    Raises:
        UserError: Classifier, encoder and result do not belong together, a library is missing, or
            ONNX Runtime's output differs from PyTorch's.
    """
    _check_belong_together(classifier, metrics, encoder)
    preprocessing = load_preprocessing(classifier.provenance)
    configuration = classifier.provenance["configuration"]
    network = restore_classifier(classifier.tensors, classifier.provenance)
    provenance = {**classifier.provenance, "classifier": classifier.digest()}
    files = {"classifier.onnx": export_image_classifier(network, preprocessing, provenance)}
    loader = None
    if configuration["finetune"]["architecture"] == "resnet":
        loader = render_loader(
            ModelConfig.model_validate(configuration["model"]),
            preprocessing,
            has_encoder=encoder is not None,
        )
        files["load.py"] = loader.encode()
        files["resnetv2.safetensors"] = save(classifier.tensors, _METADATA)
        if encoder is not None:
            patch_network = select_patch_network(encoder.tensors)
            files["encoder.safetensors"] = save(patch_network, _METADATA)
    same_split = classifier.provenance.get("pretraining_excludes_test_split")
    other_images = (
        encoder is not None
        and not same_split
        and configuration["pretrained_on"] != classifier.provenance["data"]
    )
    card = render_model_card(
        metrics,
        results,
        classifier.provenance,
        licence=export.licence,
        loader=loader,
        tolerance=TOLERANCE,
        pretrained_on=pretrained_on if other_images else None,
    )
    return {**files, "README.md": card.encode()}


def _check_belong_together(
    classifier: Weights, metrics: dict[str, Any], encoder: Weights | None
) -> None:
    if encoder is not None:
        check_encoder(encoder, classifier.provenance, "the classifier")
    if classifier.digest() != metrics["provenance"]["classifier"]:
        arm = metrics["arm"].removeprefix("weights_")  # as in the catalog
        raise UserError(
            "the result belongs to a different classifier: finetune again, or load a matching "
            f"version of both with --load-versions={arm}_classifier:VERSION,{arm}_metrics:VERSION"
        )
