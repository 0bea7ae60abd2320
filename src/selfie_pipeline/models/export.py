"""The networks for others: as plain timm models, and as ONNX."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from selfie_pipeline.config import ModelConfig, UserError
from selfie_pipeline.models.backbone import PRETRAINED_STAGES
from selfie_pipeline.models.classifier import Classifier
from selfie_pipeline.models.onnx_runtime import OnnxClassifier

TOLERANCE = 1e-4
"""Largest difference between a logit of PyTorch's and ONNX Runtime's."""

_BATCHES = (1, 5)
"""Numbers of images that the two are compared on: neither is the one that was exported with."""

_LOADER = '''\
"""The networks of this folder as plain timm models: `pip install timm`."""

from pathlib import Path

import timm
from safetensors.torch import load_file
from torch import nn

HERE = Path(__file__).parent
CLASSES = {classes!r}
IMAGE_SIZE = {image_size}  # pixels
# Of red, green and blue, for pixels in 0 to 1
MEAN = {mean!r}
STD = {std!r}


def load_classifier() -> nn.Module:
    """From normalised images, (B, 3, H, W), to logits, (B, {outputs})."""
    {classifier}
    network.load_state_dict(load_file(HERE / "resnetv2.safetensors"), strict=True)
    return network.eval()


def load_encoder() -> nn.Module:
    """From normalised images or patches, (B, 3, H, W), to vectors, (B, {features})."""
    {encoder}
    network.load_state_dict(load_file(HERE / "encoder.safetensors"), strict=True)
    return network.eval()
'''


def loader_source(
    model: ModelConfig, classes: list[str], image_size: int, mean: list[float], std: list[float]
) -> str:
    """A Python file that loads the ResNet and P, saved beside it, with nothing but timm.

    Args:
        model: The networks' sizes.
        classes: Names of the classifier's outputs.
        image_size: Side of the image that the classifier sees, pixels.
        mean: Of each channel, in units of 255.
        std: Likewise.

    Returns:
        Source code with the functions `load_classifier` and `load_encoder`. They read the tensors
        of `models.backbone.build_resnet`, and those that `encoder_tensors` gives.
    """
    normalises = model.preactivation and model.normalise_before_pooling
    encoder = _timm_lines(model, PRETRAINED_STAGES, classes=0)
    if model.preactivation and not normalises:
        encoder.append("network.norm = nn.Identity()")
    return _LOADER.format(
        classes=classes,
        image_size=image_size,
        mean=mean,
        std=std,
        outputs=len(classes),
        features=model.features,
        classifier="\n    ".join(_timm_lines(model, len(model.layers), len(classes))),
        encoder="\n    ".join(encoder),
    )


def _timm_lines(model: ModelConfig, stages: int, classes: int) -> list[str]:
    """The lines that build a ResNet of some stages; see `models.backbone.build_resnet`."""
    channels = tuple(model.width * factor for factor in (4, 8, 16, 32)[:stages])
    lines = [
        "network = timm.create_model(",
        '    "resnetv2_50",',
        f"    num_classes={classes},",
        f"    layers={model.layers[:stages]},",
        f"    channels={channels},",
        f"    stem_chs={model.width},",
        f"    preact={model.preactivation},",
        ")",
    ]
    if model.stem == "small":  # no argument of timm's gives it
        lines += [
            f"network.stem.conv = nn.Conv2d(3, {model.width}, 3, padding=1, bias=False)",
            "network.stem.pool = nn.Identity()",
        ]
    return lines


def encoder_tensors(encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """P's tensors of a pretrained `Selfie`, as timm names them; A and the positions stay behind."""
    prefix = "patch_network."
    return {
        name.removeprefix(prefix): tensor.contiguous()
        for name, tensor in encoder.items()
        if name.startswith(prefix)
    }


def to_onnx(network: Classifier, image_size: int) -> bytes:
    """A classifier as an ONNX file, after ONNX Runtime has given PyTorch's logits with it.

    Args:
        network: On the CPU, float32; left in evaluation mode.
        image_size: Side of the images, pixels.

    Returns:
        The file: from `images`, (batch, 3, image_size, image_size), float32, normalised, to
        `logits`, (batch, classes), float32; any batch.

    Raises:
        UserError: The libraries are not installed, or the logits differ by more than `TOLERANCE`.
    """
    _check_installed()
    network.eval()
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 3, image_size, image_size),),
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),
        verbose=False,
    )
    assert program is not None  # noqa: S101  # as dynamo promises
    content: bytes = program.model_proto.SerializeToString()
    _check_agreement(content, network, image_size)
    return content


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401, PLC0415  # optional, as the next two
        import onnxruntime  # noqa: F401, PLC0415
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed, and the export to ONNX needs it: `pip install "
            '--constraint constraints.txt --editable ".[export]"`'
        ) from None


def _check_agreement(content: bytes, network: Classifier, image_size: int) -> None:
    exported = OnnxClassifier(content)
    random = torch.Generator().manual_seed(0)
    for batch in _BATCHES:
        images = torch.randn(batch, 3, image_size, image_size, generator=random)  # (B, 3, H, W)
        with torch.inference_mode():
            difference = float((network(images) - exported(images)).abs().max())
        if not difference <= TOLERANCE:  # nor is it NaN
            raise UserError(
                f"ONNX Runtime's logits differ from PyTorch's by {difference:.2g}, allowed: "
                f"{TOLERANCE:g}; nothing was written: try other versions of onnxscript and "
                "onnxruntime, such as those in constraints.txt"
            )
