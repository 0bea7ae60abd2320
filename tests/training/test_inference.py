"""Tests of inference."""

import numpy as np
import torch
from torch import nn

from selfie_pipeline.training.device import Device
from selfie_pipeline.training.inference import Inference

MEAN, STD = (np.array(values, dtype=np.float32) for values in ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]))


def test_the_network_sees_normalised_pixels_and_does_not_change():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    windows = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)

    infer = Inference(network, MEAN, STD, Device("cpu", bf16=False))
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
