"""Tests of the choice of device and precision, and of compilation."""

import platform

import pytest
import torch
from torch import nn

from selfie_pipeline.config import ComputeConfig, UserError
from selfie_pipeline.models.classifier import build_classifier
from selfie_pipeline.models.selfie import Selfie
from selfie_pipeline.training import cuda
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.batches import patch_order
from selfie_pipeline.training.device import Device, find_device
from selfie_pipeline.training.pretraining import pretrain

HAS_GPU = torch.cuda.is_available()
CAPABILITIES = torch.cpu.get_capabilities()
HAS_BF16 = bool(CAPABILITIES.get("avx512_bf16") or CAPABILITIES.get("amx_bf16"))

needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="torch sees no GPU")
needs_no_gpu = pytest.mark.skipif(HAS_GPU, reason="torch sees a GPU")

OLD_TORCH = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
"""The compiler of torch 2.11 warns of autograd functions."""

CPU = Device(type="cpu", bf16=False)
COMPILING_CPU = Device(type="cpu", bf16=False, compile=True)


def find(accelerator="cpu", precision="auto", compiled="auto", deterministic=False):
    config = ComputeConfig.model_construct(
        accelerator=accelerator, precision=precision, compile=compiled, deterministic=deterministic
    )
    return find_device(config)


@pytest.fixture
def captured(monkeypatch):
    """The graphs that the compiler captures; they run uncompiled, which saves minutes."""
    graphs = []

    def capture(graph, inputs, **_):
        graphs.append(graph)
        return graph.forward

    original = nn.Module.compile

    def compile_by_capturing(module, **options):
        original(module, backend=capture, **options)

    monkeypatch.setattr(nn.Module, "compile", compile_by_capturing)
    torch.compiler.reset()
    yield graphs
    torch.compiler.reset()


def test_auto_precision_on_a_cpu_is_bf16_if_it_has_the_instructions():
    device = find()
    assert device.type == "cpu"
    assert device.bf16 == HAS_BF16
    assert device.precision == ("bf16-mixed" if HAS_BF16 else "32-true")


@needs_no_gpu
def test_auto_without_a_gpu_is_the_cpu():
    assert find("auto") == find("cpu")


def test_fp32_is_never_autocast():
    device = find(precision="fp32")
    assert device.precision == "32-true"
    with device.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_autocast_is_in_the_precision_of_the_device():
    device = find()
    with device.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if device.bf16 else torch.float32)


@pytest.mark.parametrize(
    "instructions", [{"avx512_bf16": True}, {"amx_bf16": True}, {"avx2": True}, {}]
)
def test_bf16_requires_a_cpu_with_its_instructions(monkeypatch, instructions):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    has_bf16 = "avx512_bf16" in instructions or "amx_bf16" in instructions
    assert find().bf16 == has_bf16
    if has_bf16:
        assert find(precision="bf16").bf16
    else:
        with pytest.raises(UserError, match=r"^compute\.precision = bf16, .*fp32 or auto$"):
            find(precision="bf16")


@needs_no_gpu
def test_a_missing_gpu_is_an_error_of_one_line():
    with pytest.raises(UserError) as caught:
        find("gpu")
    message = str(caught.value)
    assert message.startswith("compute.accelerator = gpu, but torch sees no GPU")
    assert "compute.accelerator=cpu" in message
    assert "\n" not in message


def test_a_device_names_its_processor():
    assert f"{torch.get_num_threads()} threads" in find().name


@pytest.mark.parametrize(("processor", "named"), [("EPYC", "EPYC"), ("", "x86_64")])
def test_a_processor_without_a_name_is_named_by_its_kind(monkeypatch, processor, named):
    monkeypatch.setattr(platform, "processor", lambda: processor)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")

    assert find().name == f"{named}, {torch.get_num_threads()} threads"


def test_auto_compiles_on_a_gpu_only():
    assert not find().compile
    assert not find(compiled="never").compile
    assert find(compiled="always").compile


def test_auto_does_not_compile_on_a_gpu_that_must_be_deterministic(monkeypatch):
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "has_bf16", lambda: True)

    assert find("auto").compile
    assert not find("auto", deterministic=True).compile
    assert find("auto", compiled="always", deterministic=True).compile


@pytest.mark.parametrize("network", ["selfie", "resnet", "resnet36_attention"])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is:UserWarning")
@OLD_TORCH
def test_a_compiled_network_computes_the_same_with_the_same_tensor_names(
    make_config, captured, network
):
    config = make_config()
    torch.manual_seed(0)
    if network == "selfie":
        built = Selfie(config.model, config.patch)
        inputs = (torch.randn(2, 16, 3, 8, 8), patch_order(0, 0, 2, 16))
    else:
        built = build_classifier(config.model, network, config.patch, classes=10)
        inputs = (torch.randn(2, 3, 32, 32),)
    names, expected = list(built.state_dict()), built(*inputs)

    COMPILING_CPU.prepare(built)

    torch.testing.assert_close(built(*inputs), expected)
    assert len(captured) == 1  # no break in the graph
    assert list(built.state_dict()) == names


@OLD_TORCH
def test_a_compiled_training_is_the_same_training(make_config, make_images, captured, tmp_path):
    config = make_config({"model.layers": [1, 1, 1, 1], "pretrain.accumulate": 2})
    trained = [
        pretrain(
            config.model,
            config.pretrain,
            make_images(config),
            torch.arange(50).numpy(),
            device,
            Checkpoints(tmp_path / str(device.compile), {}, every=2, resume="auto"),
        )
        for device in (CPU, COMPILING_CPU)
    ]

    assert captured
    assert trained[1].tensors.keys() == trained[0].tensors.keys()
    for row, expected in zip(trained[1].history, trained[0].history, strict=True):
        assert row == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_cuda_graphs_are_recorded_on_a_gpu_that_may(monkeypatch, kind, allowed):
    options = {}
    monkeypatch.setattr(nn.Module, "compile", lambda _, **given: options.update(given))
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda _: None)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # as it was, after the test
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    Device(kind, bf16=False, compile=True).prepare(nn.Linear(1, 1), cuda_graphs=allowed)

    assert options["options"] == {"triton.cudagraphs": kind == "cuda" and allowed}


@needs_gpu
def test_on_a_gpu_products_of_fp32_may_round_to_tf32(make_config):
    config = make_config()
    find("gpu", compiled="never").prepare(Selfie(config.model, config.patch))
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cudnn.benchmark


@needs_gpu
@pytest.mark.parametrize("accelerator", ["auto", "gpu"])
def test_an_available_gpu_is_used(accelerator):
    device = find(accelerator)
    assert device.type == "cuda"
    assert device.compile
    assert device.name == torch.cuda.get_device_name()
    assert device.bf16 == torch.cuda.is_bf16_supported(including_emulation=False)
    assert find("cpu").type == "cpu"
