"""Convolutions as matrix products, where a CPU computes those faster.

The feature maps of a patch network are tiny: stage three maps an 8×8 patch to 2×2. There, oneDNN's
convolutions reach a fraction of the rate of matrix products, and a 3×3 kernel spends most of its
work on the zeros around the map. The results equal those of `torch.nn.Conv2d` up to rounding, and
the tensors have the same names and shapes. Larger maps, other devices, compiled and exported
networks use torch's own convolution.

In this module a map is (B, H, W, I) and its kernel (O, 3, 3, I), with I input and O output
channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_MAX_SIDE = 2
"""Largest side of an output that is computed as matrix products."""

_MAX_SIDE_1X1_BF16 = 8
"""The same for 1×1 kernels in bfloat16, whose products oneDNN computes, not MKL."""


def create_conv2d(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, **kwargs: Any
) -> Conv2d:
    """Create a convolution without bias, padded so that stride 1 keeps the size, for timm."""
    padding = kernel_size // 2
    return Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False, **kwargs)


class Conv2d(nn.Conv2d):
    """A `torch.nn.Conv2d` that computes matrix products on a CPU where those are faster."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """Convolve (B, I, H, W) to (B, O, H', W').

        The memory format of a matrix product is channels-last.
        """
        plain = self.groups == 1 and self.dilation == (1, 1) and self.bias is None
        if input.device.type == "cpu" and plain and not torch.compiler.is_compiling():
            side = -(-max(input.shape[2:]) // self.stride[0])  # of the output
            dtype = self._compute_dtype(input)
            max_side_1x1 = _MAX_SIDE_1X1_BF16 if dtype == torch.bfloat16 else _MAX_SIDE
            if self.kernel_size == (1, 1) and side <= max_side_1x1:
                return self._convolve_1x1(input, self.stride[0])
            if self.kernel_size == (3, 3) and side <= _MAX_SIDE:
                return self._convolve_3x3(input.to(dtype), self.stride[0])
        return super().forward(input)

    @staticmethod
    def _compute_dtype(maps: Tensor) -> torch.dtype:
        autocast = torch.is_autocast_enabled("cpu")
        return torch.get_autocast_dtype("cpu") if autocast else maps.dtype

    def _convolve_1x1(self, maps: Tensor, stride: int) -> Tensor:
        # Permuted first, so that the gradient has this memory format, too.
        maps = maps.permute(0, 2, 3, 1)[:, ::stride, ::stride]  # (B, H', W', I)
        maps = maps.contiguous()  # else, without gradients, the kernel is copied B·H' times
        out = functional.linear(maps, self.weight.flatten(1))  # (B, H', W', O)
        return out.permute(0, 3, 1, 2)  # (B, O, H', W')

    def _convolve_3x3(self, maps: Tensor, stride: int) -> Tensor:
        maps = maps.permute(0, 2, 3, 1).contiguous()  # (B, H, W, I)
        kernel = self.weight.to(maps.dtype).permute(0, 2, 3, 1).contiguous()  # (O, 3, 3, I)
        out: Tensor = _Conv3x3.apply(maps, kernel, stride)  # (B, H', W', O)
        return out.permute(0, 3, 1, 2)  # (B, O, H', W')


_Indices = tuple[slice, Any, Any]


def _output_positions(
    height: int, width: int, stride: int
) -> Iterator[tuple[_Indices, _Indices, _Indices]]:
    """Iterate over the output of a 3×3 convolution with padding 1.

    Yields:
        For each output position, the indices of the position in the output, of the window that it
        depends on in the map, and of the taps over this window in the kernel.
    """
    every = slice(None)
    for row, (rows, row_taps) in enumerate(_windows(height, stride)):
        for column, (columns, column_taps) in enumerate(_windows(width, stride)):
            yield (every, row, column), (every, rows, columns), (every, row_taps, column_taps)


def _windows(size: int, stride: int) -> Iterator[tuple[slice, slice]]:
    """Yield, along one axis, each output's window in the map and the taps over it."""
    for start in range(-1, size - 1, stride):
        first, last = max(start, 0), min(start + 3, size)
        yield slice(first, last), slice(first - start, last - start)


class _Conv3x3(torch.autograd.Function):
    """A 3×3 convolution with padding 1: for each output position, one matrix product."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, kernel: Tensor, stride: int) -> Tensor:
        b, height, width, _ = maps.shape
        out = maps.new_empty(b, -(-height // stride), -(-width // stride), len(kernel))
        for position, window, taps in _output_positions(height, width, stride):
            out[position] = maps[window].flatten(1) @ kernel[taps].flatten(1).T  # (B, O)
        ctx.save_for_backward(maps, kernel)
        ctx.stride = stride
        return out  # (B, H', W', O)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad_out,) = gradients  # (B, H', W', O)
        maps, kernel = ctx.saved_tensors
        grad_maps = torch.zeros_like(maps)  # (B, H, W, I)
        sum_dtype = torch.promote_types(kernel.dtype, torch.float32)  # of a sum over positions
        grad_kernel = torch.zeros_like(kernel, dtype=sum_dtype)  # (O, 3, 3, I)
        for position, window, taps in _output_positions(maps.shape[1], maps.shape[2], ctx.stride):
            grad = grad_out[position].contiguous()  # (B, O)
            inputs, weights = maps[window], kernel[taps]  # (B, h, w, I), (O, h, w, I)
            grad_maps[window] += (grad @ weights.flatten(1)).view(inputs.shape)  # (B, h, w, I)
            grad_kernel[taps] += (grad.T @ inputs.flatten(1)).view(weights.shape)  # (O, h, w, I)
        return grad_maps, grad_kernel.to(kernel.dtype), None
