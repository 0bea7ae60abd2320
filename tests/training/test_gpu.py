"""Tests of trainings on a GPU: precision, residency and compilation do not change their results."""

import numpy as np
import pytest
import torch

from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data import prefetch
from selfie_pipeline.training.device import find_device
from selfie_pipeline.training.pretraining import pretrain

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")

ROWS = np.arange(0, 1797, 3)
SHORT = {"pretrain.steps": 8, "pretrain.checkpoint_every": 4}


@pytest.fixture
def train(make_config, make_images, tmp_path):
    def train(accelerator, precision="fp32", compiled="never", folder="run"):
        compute = {"accelerator": accelerator, "precision": precision, "compile": compiled}
        config = make_config(SHORT | {f"compute.{key}": value for key, value in compute.items()})
        checkpoints = Checkpoints(tmp_path / folder, {}, 4, "auto")
        images, device = make_images(config), find_device(config.compute)
        return pretrain(config.model, config.pretrain, images, ROWS, device, checkpoints)

    return train


def losses(trained):
    return [row.loss for row in trained.history]


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("compiled", ["never", "always"])
def test_losses_on_a_gpu_are_close_to_those_on_a_cpu(train, monkeypatch, compiled, resident):
    monkeypatch.setattr(prefetch, "GPU_MEMORY_SHARE", 1 / 3 if resident else 0)

    expected, trained = train("cpu", folder="cpu"), train("gpu", compiled=compiled, folder="gpu")

    assert trained.tensors.keys() == expected.tensors.keys()
    assert losses(trained) == pytest.approx(losses(expected), rel=1e-2)


@pytest.mark.skipif(
    not torch.cuda.is_available() or not torch.cuda.is_bf16_supported(including_emulation=False),
    reason="the GPU has no bfloat16",
)
@pytest.mark.parametrize("compiled", ["never", "always"])
def test_losses_in_bf16_are_close_to_those_in_fp32(train, compiled):
    expected = train("cpu", folder="cpu")
    trained = train("gpu", precision="bf16", compiled=compiled, folder="gpu")

    assert losses(trained) == pytest.approx(losses(expected), rel=5e-2)
    assert {tensor.dtype for tensor in trained.tensors.values()} <= {torch.float32, torch.int64}


def test_a_training_resumes_from_its_checkpoint(train, tmp_path):
    undisturbed = train("gpu", folder="run")
    latest = sorted(tmp_path.glob("run-*/step-*.json"))[-1]
    latest.unlink()  # the one before it is of step 4

    resumed = train("gpu", folder="run")

    assert losses(resumed) == pytest.approx(losses(undisturbed), rel=1e-2)
