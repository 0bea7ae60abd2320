"""Tests of the export to timm and ONNX."""

import json
import runpy
import sys
from collections import Counter
from contextlib import nullcontext

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from selfie_pipeline.config import UserError
from selfie_pipeline.models import export
from selfie_pipeline.models.backbone import PatchNetwork, build_resnet
from selfie_pipeline.models.export import (
    OnnxClassifier,
    export_image_classifier,
    export_onnx,
    open_session,
    render_loader,
    select_patch_network,
)
from selfie_pipeline.models.image_classifier import ImageClassifier
from selfie_pipeline.models.preprocessing import Preprocessing
from selfie_pipeline.models.selfie import Selfie

CLASSES = ["cat", 'it\'s a "dog"', "owl"]


def randomise_batch_norm(network):
    """Change the initial 0 and 1 of BatchNorm, which would hide a mistake."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("preactivation", [True, False])
@pytest.mark.parametrize("stem", ["small", "standard"])
def test_plain_timm_models_load_the_weights_and_compute_the_same(
    make_config, tmp_path, stem, preactivation, normalise
):
    config = make_config(
        {
            "model.stem": stem,
            "model.preactivation": preactivation,
            "model.normalise_before_pooling": normalise,
            "model.layers": [1, 2, 1, 1],
        }
    )
    torch.manual_seed(0)
    resnet = randomise_batch_norm(build_resnet(config.model, 3))
    encoder = randomise_batch_norm(Selfie(config.model, config.patch))
    save_file(resnet.state_dict(), tmp_path / "resnetv2.safetensors")
    save_file(select_patch_network(encoder.state_dict()), tmp_path / "encoder.safetensors")
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.2, 0.25])
    preprocessing = Preprocessing(config.patch, mean, std, CLASSES)
    source = render_loader(config.model, preprocessing, has_encoder=True)
    (tmp_path / "load.py").write_text(source)

    loader = runpy.run_path(str(tmp_path / "load.py"))
    classifier, p = loader["load_classifier"](), loader["load_encoder"]()

    assert loader["CLASSES"] == CLASSES
    assert (loader["IMAGE_SIZE"], loader["MEAN"]) == (config.patch.image_size, [0.5, 0.4, 0.3])
    assert not any(type(module).__module__.startswith("selfie") for module in classifier.modules())
    assert isinstance(encoder.patch_network, PatchNetwork)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(classifier(images), resnet(images), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(p(images), encoder.patch_network(images), rtol=1e-4, atol=1e-5)


def test_onnx_has_convolutions(make_config):
    """It has no matrix products in their place, as on a CPU."""
    network = randomise_batch_norm(build_resnet(make_config().model, 3))

    operations = Counter(
        node.op_type for node in onnx.load_from_string(export_onnx(network, 16)).graph.node
    )

    convolutions = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    assert operations["Conv"] == convolutions
    assert not {"MatMul", "Gemm"} & operations.keys()


def test_onnx_runtime_computes_the_networks_logits_in_any_memory_format(make_config):
    torch.manual_seed(0)
    network = build_resnet(make_config().model, 5).eval()
    classifier = OnnxClassifier(export_onnx(network, 16))
    images = torch.randn(3, 3, 16, 16)  # (B, 3, H, W)

    with torch.inference_mode():
        expected = network(images)
        for batch in (images, images.to(memory_format=torch.channels_last)):
            torch.testing.assert_close(classifier(batch), expected, rtol=0, atol=1e-4)


def test_an_export_whose_logits_differ_is_an_error(make_config, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)

    with pytest.raises(UserError, match=r"^ONNX Runtime's logits differ from PyTorch's by .*; no"):
        export_onnx(build_resnet(make_config().model, 3), 16)


@pytest.mark.parametrize(
    ("scale", "error", "limit"),
    [
        (1, 5e-5, None),
        (1, 2e-4, "0.0001"),
        (1, np.nan, "0.0001"),
        (1e3, 2e-3, None),
        (1e3, 1.0, r"[0-9.]+"),
    ],
)
def test_logits_may_differ_by_a_ten_thousandth(make_config, monkeypatch, scale, error, limit):
    """Of the largest one, if that is larger than 1."""

    class Shifted:
        """ONNX Runtime with an error."""

        def __init__(self, content):
            self.session = open_session(content)

        def run(self, *args):
            return [self.session.run(*args)[0] + np.float32(error)]

    monkeypatch.setattr(export, "open_session", Shifted)
    network = build_resnet(make_config().model, 3)
    with torch.no_grad():
        network.head.fc.weight.normal_(std=scale / 100)

    message = rf"allowed: {limit}; nothing"
    with nullcontext() if limit is None else pytest.raises(UserError, match=message):
        export_onnx(network, 16)


@pytest.mark.parametrize("name", ["onnx", "onnxruntime", "onnxscript"])
def test_a_library_that_is_not_installed_is_named(make_config, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(UserError, match=f"^the export to ONNX needs {name}, which is not"):
        export_onnx(build_resnet(make_config().model, 3), 16)


def test_onnx_takes_images_of_any_size(make_config):
    config = make_config({"patch.canvas_size": 40})
    torch.manual_seed(0)
    network = randomise_batch_norm(build_resnet(config.model, 3))
    preprocessing = Preprocessing(
        config.patch, np.float32([0.5] * 3), np.float32([0.2] * 3), CLASSES
    )

    session = open_session(export_image_classifier(network, preprocessing, {"seed": 7}))

    reference = ImageClassifier(network, preprocessing).eval()
    rng = torch.Generator().manual_seed(0)
    for size in [(1, 1), (20, 90), (40, 40), (333, 250)]:
        image = torch.randint(256, (*size, 3), generator=rng, dtype=torch.uint8)  # (H, W, 3)
        (found,) = session.run(["probabilities"], {"image": image.numpy()})
        with torch.inference_mode():
            expected = reference(image)
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=2e-3)
    metadata = session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(text) for name, text in metadata.items()} == {
        "classes": CLASSES,
        "provenance": {"seed": 7},
    }
