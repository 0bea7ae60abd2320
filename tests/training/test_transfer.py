import pytest
import torch

from selfie_pipeline.training.data.transfer import AsyncCopy, send

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_sent_and_fetched_again_is_the_same(device):
    numbers = torch.rand(3, 4)

    there = send(numbers, torch.device(device))

    assert there.device.type == device
    assert AsyncCopy(there).read().device.type == "cpu"
    assert torch.equal(AsyncCopy(there).read(), numbers)


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_fetched_is_as_it_was_when_it_was_asked_for(device):
    numbers = torch.ones(1000, device=device)
    fetched = AsyncCopy(numbers * 2)
    numbers.zero_()

    assert torch.equal(fetched.read(), torch.full((1000,), 2.0))
