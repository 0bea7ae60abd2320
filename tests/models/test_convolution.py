"""Tests of the convolution: the same results as torch's own, with the same tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from selfie_pipeline.models.convolution import create_conv2d


@pytest.mark.parametrize("kernel_size", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (4, 4), (3, 4), (2, 1), (8, 8)])
def test_results_and_gradients_equal_those_of_torch(
    kernel_size: int, stride: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    ours = create_conv2d(5, 6, kernel_size, stride).double()
    theirs = nn.Conv2d(5, 6, kernel_size, stride, kernel_size // 2, bias=False).double()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(3, 5, *size, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(theirs(images))
    expected = torch.autograd.grad((theirs(images) * weights).sum(), [images, theirs.weight])
    found = torch.autograd.grad((ours(images) * weights).sum(), [images, ours.weight])
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_bf16_is_as_close_to_float32_as_torch_is(kernel_size: int) -> None:
    torch.manual_seed(0)
    convolution = create_conv2d(64, 64, kernel_size)
    images = torch.randn(32, 64, 2, 2)
    exact = nn.functional.conv2d(images, convolution.weight, padding=kernel_size // 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = convolution(images)
        theirs = nn.functional.conv2d(images, convolution.weight, padding=kernel_size // 2)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert (ours - exact).abs().mean() < 1.2 * (theirs - exact).abs().mean()


class Operations(TorchDispatchMode):
    """Notes the operations that torch carries out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("kernel_size", "stride", "side", "dtype", "products"),
    [
        *((1, 1, 2, torch.float32, True), (1, 2, 4, torch.float32, True)),
        *((1, 1, 3, torch.float32, False), (1, 2, 5, torch.float32, False)),
        *((1, 1, 8, torch.bfloat16, True), (1, 2, 16, torch.bfloat16, True)),
        *((1, 1, 9, torch.bfloat16, False), (1, 2, 17, torch.bfloat16, False)),
        *((3, 1, 2, dtype, True) for dtype in (torch.float32, torch.bfloat16)),
        *((3, 2, 4, torch.float32, True), (3, 2, 3, torch.float32, True)),
        *((3, 1, 3, dtype, False) for dtype in (torch.float32, torch.bfloat16)),
        *((3, 2, 5, torch.float32, False), (7, 2, 2, torch.float32, False)),
    ],
)
def test_small_maps_on_a_cpu_are_computed_as_matrix_products(
    kernel_size: int, stride: int, side: int, dtype: torch.dtype, products: bool
) -> None:
    convolution = create_conv2d(4, 4, kernel_size, stride)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
    with Operations() as operations, autocast:
        convolution(torch.randn(2, 4, side, side))
    assert ("aten::convolution" not in operations.names) == products
    with Operations() as operations:
        convolution.to("meta")(torch.empty(2, 4, side, side, device="meta"))
    assert "aten::convolution" in operations.names


def test_the_result_is_channels_last() -> None:
    for kernel_size in (1, 3):
        out = create_conv2d(4, 8, kernel_size)(torch.randn(2, 4, 2, 2))
        assert out.is_contiguous(memory_format=torch.channels_last)
