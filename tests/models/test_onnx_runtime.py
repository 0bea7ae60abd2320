"""Tests of the classifier that ONNX Runtime computes."""

import torch

from selfie_pipeline.models.backbone import build_resnet
from selfie_pipeline.models.export import export_onnx
from selfie_pipeline.models.onnx_runtime import OnnxClassifier


def test_it_computes_the_networks_logits_in_any_memory_format(make_config):
    torch.manual_seed(0)
    network = build_resnet(make_config().model, 5).eval()
    classifier = OnnxClassifier(export_onnx(network, 16))
    images = torch.randn(3, 3, 16, 16)  # (B, 3, H, W)

    with torch.inference_mode():
        expected = network(images)
        for batch in (images, images.to(memory_format=torch.channels_last)):
            torch.testing.assert_close(classifier(batch), expected, rtol=0, atol=1e-4)
