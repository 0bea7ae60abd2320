"""Export of the networks as plain timm models and as ONNX, and inference with ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from selfie_pipeline.config import ModelConfig, UserError
from selfie_pipeline.extras import require_extra
from selfie_pipeline.models.backbone import PRETRAINED_STAGES, timm_arguments
from selfie_pipeline.models.classifier import Classifier
from selfie_pipeline.models.image_classifier import ImageClassifier
from selfie_pipeline.models.preprocessing import Preprocessing

if TYPE_CHECKING:
    import onnxruntime

TOLERANCE = 1e-4
"""Largest difference between outputs of PyTorch and ONNX Runtime, in units of the largest output
if that exceeds 1: large logits are rounded in larger steps."""

_BATCH_SIZES = (2, 1, 5)
"""Batch sizes for which the two are compared; the first is that of the export."""

_LOADER = '''\
"""Loads the networks of this folder as plain timm models: `pip install timm`."""

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
    """Load the classifier: normalised images, (B, 3, H, W), to logits, (B, {outputs})."""
    {classifier}
    network.load_state_dict(load_file(HERE / "resnetv2.safetensors"), strict=True)
    return network.eval()
'''
_ENCODER_LOADER = '''

def load_encoder() -> nn.Module:
    """Load P: normalised images or patches, (B, 3, H, W), to vectors, (B, {features})."""
    {encoder}
    network.load_state_dict(load_file(HERE / "encoder.safetensors"), strict=True)
    return network.eval()
'''


def render_loader(model: ModelConfig, preprocessing: Preprocessing, *, has_encoder: bool) -> str:
    """Render a Python file that loads the ResNet, and P if it is there, with timm alone.

    Args:
        model: Model parameters.
        preprocessing: The preprocessing of the classifier's images.
        has_encoder: Whether P is saved beside it, too.

    Returns:
        Source code with the functions `load_classifier` and, for P, `load_encoder`. They load the
        tensors of `models.backbone.build_resnet` and those that `select_patch_network` returns.
    """
    classes = preprocessing.classes
    classifier = _format_timm_model(model, classes=len(classes))
    encoder = _format_timm_model(model, PRETRAINED_STAGES)
    if model.preactivation and not model.normalise_before_pooling:
        encoder.append("network.norm = nn.Identity()")
    return (_LOADER + _ENCODER_LOADER * has_encoder).format(
        classes=classes,
        image_size=preprocessing.patch.image_size,
        mean=preprocessing.mean.tolist(),
        std=preprocessing.std.tolist(),
        outputs=len(classes),
        features=model.features,
        classifier="\n    ".join(classifier),
        encoder="\n    ".join(encoder),
    )


def _format_timm_model(model: ModelConfig, stages: int = 4, classes: int = 0) -> list[str]:
    """Return the lines that build a ResNet of some stages; see `models.backbone.build_resnet`."""
    arguments = {"num_classes": classes, **timm_arguments(model, stages)}
    lines = [
        "network = timm.create_model(",
        '    "resnetv2_50",',
        *(f"    {name}={value!r}," for name, value in arguments.items()),
        ")",
    ]
    if model.stem == "small":  # timm has no argument for it
        lines += [
            f"network.stem.conv = nn.Conv2d(3, {model.width}, 3, padding=1, bias=False)",
            "network.stem.pool = nn.Identity()",
        ]
    return lines


def select_patch_network(encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return P's tensors of a pretrained `Selfie`, without A and the positions, by timm's names."""
    prefix = "patch_network."
    return {
        name.removeprefix(prefix): tensor.contiguous()
        for name, tensor in encoder.items()
        if name.startswith(prefix)
    }


def export_onnx(network: Classifier, image_size: int) -> bytes:
    """Export a classifier to ONNX, and check that ONNX Runtime computes the same logits.

    Args:
        network: The classifier, on the CPU, float32; it stays in evaluation mode.
        image_size: Side of the images in pixels.

    Returns:
        The content of the file: from `images`, (batch, 3, image_size, image_size), float32,
        normalised, to `logits`, (batch, classes), float32; for any batch size.

    Raises:
        UserError: The libraries are not installed, or the logits differ by more than `TOLERANCE`.
    """
    rng = torch.Generator().manual_seed(0)
    batches = [torch.randn(n, 3, image_size, image_size, generator=rng) for n in _BATCH_SIZES]
    return _export(network, "images", "logits", {0: "batch"}, batches, {})


def export_image_classifier(
    network: Classifier, preprocessing: Preprocessing, provenance: Mapping[str, Any]
) -> bytes:
    """Export a classifier with its preprocessing to ONNX, and check ONNX Runtime's results.

    Args:
        network: The classifier, on the CPU, float32; it stays in evaluation mode.
        preprocessing: The preprocessing of its images.
        provenance: Plain data to store in the file.

    Returns:
        The content of the file: from `image`, (height, width, 3), uint8, RGB, of any size, to
        `probabilities`, (classes,), float32. Its metadata has, as JSON, `classes`, the names of the
        classes in order, and `provenance`.

    Raises:
        UserError: The libraries are not installed, or the probabilities differ by more than
            `TOLERANCE`.
    """
    rng = torch.Generator().manual_seed(0)
    canvas = preprocessing.patch.canvas_size
    # Sizes that need no resizing: its rounding may go either way where a pixel is a tie.
    sizes = [(canvas, canvas + 8), (canvas, canvas), (canvas + 16, canvas)]
    images = [
        torch.randint(256, (*size, 3), generator=rng, dtype=torch.uint8) for size in sizes
    ]  # (H, W, 3)
    metadata = {"classes": preprocessing.classes, "provenance": provenance}
    classifier = ImageClassifier(network, preprocessing)
    axes = {0: "height", 1: "width"}
    return _export(classifier, "image", "probabilities", axes, images, metadata)


def _export(
    network: nn.Module,
    input_name: str,
    output_name: str,
    axes: dict[int, str],
    inputs: Sequence[Tensor],
    metadata: Mapping[str, Any],
) -> bytes:
    """Export a network of one input, and compare ONNX Runtime's outputs with PyTorch's.

    Args:
        network: Any network; it stays in evaluation mode.
        input_name: Name of its input.
        output_name: Name of its output.
        axes: Names of the input's axes that may have any size.
        inputs: Inputs to compare the outputs for.
        metadata: Plain data to store as JSON.
    """
    for module in ("onnx", "onnxruntime", "onnxscript"):
        require_extra(module, f"the export to ONNX needs {module}", "export")
    import onnx  # noqa: PLC0415  # optional

    network.eval()
    program = torch.onnx.export(
        network,
        (inputs[0],),
        dynamo=True,
        input_names=[input_name],
        output_names=[output_name],
        dynamic_shapes=(axes,),
        verbose=False,
    )
    assert program is not None  # noqa: S101  # always so with dynamo
    model = program.model_proto
    onnx.helper.set_model_props(
        model, {name: json.dumps(value) for name, value in metadata.items()}
    )
    content: bytes = model.SerializeToString()
    session = open_session(content)
    for example in inputs:
        with torch.inference_mode():
            expected = network(example)
        if not expected.isfinite().all():
            raise UserError(
                "the network's outputs are not finite, because its training diverged; nothing was "
                "written: train it again (resume=never) with a lower peak_learning_rate, or "
                "clip_norm"
            )
        (found,) = session.run(None, {input_name: example.numpy()})
        difference = float((expected - torch.from_numpy(found)).abs().max())
        allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
        if not difference <= allowed:  # also if ONNX Runtime's is NaN
            raise UserError(
                f"ONNX Runtime's {output_name} differ from PyTorch's by {difference:.2g}, allowed: "
                f"{allowed:.2g}; nothing was written: try other versions of onnxscript and "
                "onnxruntime, such as those in constraints.txt"
            )
    return content


def open_session(content: bytes) -> onnxruntime.InferenceSession:
    """Open an ONNX file's content on the CPU, computing in the calling thread."""
    import onnxruntime  # noqa: PLC0415  # optional

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


class OnnxClassifier(nn.Module):
    """A classifier from an ONNX file, on the CPU, in float32.

    It computes in the calling thread, so that batches in several threads share the cores.
    """

    def __init__(self, content: bytes) -> None:
        """Load the classifier from the content of a file, from `export_onnx`."""
        super().__init__()
        self._session = open_session(content)

    def forward(self, images: Tensor) -> Tensor:
        """Classify normalised images, (B, 3, H, W), float32: logits, (B, classes), float32."""
        (logits,) = self._session.run(["logits"], {"images": images.contiguous().numpy()})
        return torch.from_numpy(logits)  # (B, classes)
