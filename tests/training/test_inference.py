"""Tests of inference."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from selfie_pipeline.models.backbone import build_resnet
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.inference import (
    Inference,
    NonFiniteOutputError,
    compute_accuracy,
    compute_outputs,
)

PROCESSOR = Device("cpu", bf16=False)
MEAN, STD = (np.array(values, dtype=np.float32) for values in ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]))


def test_the_network_sees_normalised_pixels_and_does_not_change():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    windows = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)

    infer = Inference(network, MEAN, STD, PROCESSOR)
    outputs = infer(windows)

    mean, std = (torch.from_numpy(part).view(3, 1, 1) for part in (MEAN, STD))
    expected = network.eval()((windows / 255 - mean) / std)
    np.testing.assert_allclose(outputs, expected.detach().numpy(), atol=1e-5)
    assert outputs.dtype == np.float32
    np.testing.assert_array_equal(outputs, infer(windows))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_outputs_are_float32_in_every_precision():
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    windows = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)

    fp32, bf16 = (
        Inference(network, MEAN, STD, Device("cpu", bf16))(windows) for bf16 in (False, True)
    )

    assert bf16.dtype == np.float32
    assert not np.array_equal(fp32, bf16)
    np.testing.assert_allclose(fp32, bf16, atol=0.05)


@pytest.fixture
def compute(make_config, make_images):
    """A network whose statistics have seen images, and what it makes of rows."""
    config = make_config()
    images = make_images(config)
    torch.manual_seed(0)
    network = build_resnet(config.model, classes=10)
    network(images.read_central(np.arange(64)).float() / 64 - 1)

    def compute(rows):
        return compute_outputs(network, images, rows, PROCESSOR, "classify")

    return compute


def test_outputs_come_in_the_order_of_the_rows(compute):
    rows = np.random.default_rng(0).permutation(1797)[:300]
    outputs = compute(rows)
    assert outputs.shape == (300, 10)
    assert outputs.dtype == np.float32
    order = np.random.default_rng(1).permutation(300)
    np.testing.assert_allclose(compute(rows[order]), outputs[order], rtol=1e-4, atol=1e-4)
    assert len(np.unique(outputs, axis=0)) > 290


def test_outputs_do_not_depend_on_the_other_rows(compute):
    rows = np.arange(300)
    together = compute(rows)
    for row in (0, 255, 256, 299):
        np.testing.assert_allclose(
            compute(rows[row : row + 1])[0], together[row], rtol=1e-4, atol=1e-4
        )


def test_outputs_that_are_not_finite_are_an_error_for_the_person(make_config, make_images):
    """The last update can make them so; there is no loss after it."""
    config = make_config()
    network = build_resnet(config.model, classes=10)
    network.head.fc.weight.data[3] = float("inf")
    with pytest.raises(NonFiniteOutputError, match=r"not finite.* lower peak_learning_rate"):
        compute_outputs(network, make_images(config), np.arange(10), PROCESSOR, "classify")


def test_accuracy_is_the_share_of_samples_whose_largest_logit_is_of_their_class(
    make_config, make_images
):
    config = make_config()
    network = build_resnet(config.model, classes=10)
    images, rows = make_images(config), np.arange(8)
    best = compute_outputs(network, images, rows, PROCESSOR, "classify").argmax(axis=1)
    labels = np.where(rows < 6, best, (best + 1) % 10)

    assert compute_accuracy(network, images, rows, labels, PROCESSOR) == 0.75


def test_computing_outputs_changes_nothing(make_config, make_images):
    config = make_config()
    network = build_resnet(config.model, classes=10).train()
    before = copy.deepcopy(network.state_dict())
    compute_outputs(network, make_images(config), np.arange(10), PROCESSOR, "classify")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
