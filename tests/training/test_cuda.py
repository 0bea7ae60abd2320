import pytest
import torch

from selfie_pipeline.training.cuda import AsyncCopy, CopyStream, has_bf16, to_device, use_gpu

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


def test_emulated_bfloat16_does_not_count(monkeypatch):
    def is_supported(*, including_emulation=True):
        return including_emulation  # as an old GPU answers

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)

    assert not has_bf16()


def test_the_gpu_to_use_is_the_one_that_torch_computes_on(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)

    use_gpu(torch.device("cuda", 1))

    assert chosen == [torch.device("cuda", 1)]


def test_only_a_gpu_has_a_stream_to_copy_on(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda: "beside")
    monkeypatch.setattr(torch.cuda, "set_stream", chosen.append)

    for device in ("cpu", "cuda"):
        CopyStream(device).use()

    assert chosen == ["beside"]
