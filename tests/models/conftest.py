"""Networks that several modules test."""

import pytest
import torch

from selfie_pipeline.models.classifier import build_classifier


@pytest.fixture(params=[True, False], ids=["v2", "v1"])
def config(request, make_config):
    return make_config({"model.preactivation": request.param, "model.layers": [1, 2, 1, 1]})


@pytest.fixture
def hybrid(config):
    torch.manual_seed(2)
    return build_classifier(config.model, "resnet36_attention", config.patch, classes=10)
