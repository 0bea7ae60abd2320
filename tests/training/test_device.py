import pytest
import torch

from selfie_pipeline.config import ComputeConfig, UserError
from selfie_pipeline.training.device import find_device

HAS_GPU = torch.cuda.is_available()
CAPABILITIES = torch.cpu.get_capabilities()
HAS_BF16 = bool(CAPABILITIES.get("avx512_bf16") or CAPABILITIES.get("amx_bf16"))

needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="torch sees no GPU")
needs_no_gpu = pytest.mark.skipif(HAS_GPU, reason="torch sees a GPU")


def find(accelerator="cpu", precision="auto"):
    return find_device(ComputeConfig(accelerator=accelerator, precision=precision))


def test_auto_precision_on_a_processor_is_what_it_computes_in_itself():
    device = find()
    assert device.type == "cpu"
    assert device.bf16 == HAS_BF16
    assert device.precision == ("bf16-mixed" if HAS_BF16 else "32-true")


@needs_no_gpu
def test_auto_without_a_gpu_is_the_processor():
    assert find("auto") == find("cpu")


def test_fp32_is_never_autocast():
    device = find(precision="fp32")
    assert device.precision == "32-true"
    with device.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_autocast_is_in_the_precision_that_was_found():
    device = find()
    with device.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if device.bf16 else torch.float32)


@pytest.mark.parametrize("has", [{"avx512_bf16": True}, {"amx_bf16": True}, {"avx2": True}, {}])
def test_processors_are_told_apart_by_their_instructions(monkeypatch, has):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    able = "avx512_bf16" in has or "amx_bf16" in has
    assert find().bf16 == able
    if able:
        assert find(precision="bf16").bf16
    else:
        with pytest.raises(UserError, match=r"^compute\.precision = bf16, .*fp32 or auto$"):
            find(precision="bf16")


@needs_no_gpu
def test_a_gpu_that_is_not_there_is_one_line():
    with pytest.raises(UserError) as caught:
        find("gpu")
    message = str(caught.value)
    assert message.startswith("compute.accelerator = gpu, but torch sees no GPU")
    assert "compute.accelerator=cpu" in message
    assert "\n" not in message


def test_a_device_names_its_processor():
    assert f"{torch.get_num_threads()} threads" in find().name


@needs_gpu
@pytest.mark.parametrize("accelerator", ["auto", "gpu"])
def test_a_gpu_that_is_there_is_used(accelerator):
    device = find(accelerator)
    assert device.type == "cuda"
    assert device.name == torch.cuda.get_device_name()
    assert device.bf16 == torch.cuda.is_bf16_supported(including_emulation=False)
    assert find("cpu").type == "cpu"
