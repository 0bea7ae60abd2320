import pytest
import torch

from selfie_pipeline.training.cuda import AsyncCopy, to_device

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
def test_a_copy_to_the_device_and_back_is_the_same(device):
    numbers = torch.rand(3, 4)

    there = to_device(numbers, torch.device(device))

    assert there.device.type == device
    assert AsyncCopy(there).read().device.type == "cpu"
    assert torch.equal(AsyncCopy(there).read(), numbers)


@pytest.mark.parametrize("device", DEVICES)
def test_a_copy_keeps_the_values_of_the_time_of_the_call(device):
    numbers = torch.ones(1000, device=device)
    fetched = AsyncCopy(numbers * 2)
    numbers.zero_()

    assert torch.equal(fetched.read(), torch.full((1000,), 2.0))
