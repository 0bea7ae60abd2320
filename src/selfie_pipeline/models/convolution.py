"""Convolutions as matrix products, where a CPU computes those faster.

A patch network's maps are tiny: an 8×8 patch ends at 2×2. There, oneDNN's convolutions reach a
fraction of the rate of its matrix products, and a 3×3 kernel spends most of its work on the zeros
around the map. The numbers are those of `torch.nn.Conv2d` up to rounding; so are the tensors'
names and shapes. Other devices run torch's own convolution, and so does an exported network.

In this module a map is written (B, H, W, I), its kernel (O, 3, 3, I), with I channels in, O out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

_SMALL_OUTPUT = 2
"""Side of the largest 3×3 convolution's output that is computed place by place."""


def conv2d(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, **kwargs: Any
) -> Conv2d:
    """A convolution without bias, padded so that stride 1 keeps the size; as timm asks for one."""
    padding = kernel_size // 2
    return Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False, **kwargs)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that becomes matrix products on a CPU where those are faster."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """(B, I, H, W) to (B, O, H', W'), in channels-last memory format."""
        plain = self.groups == 1 and self.dilation == (1, 1) and self.bias is None
        if input.device.type == "cpu" and plain and not torch.compiler.is_exporting():
            stride = self.stride[0]
            if self.kernel_size == (1, 1):
                maps = input[:, :, ::stride, ::stride].permute(0, 2, 3, 1)  # (B, H', W', I)
                maps = maps.contiguous()  # else, without gradients, the kernel is copied B·H' times
                out = functional.linear(maps, self.weight.flatten(1))  # (B, H', W', O)
                return out.permute(0, 3, 1, 2)  # (B, O, H', W')
            side = max(input.shape[2:])
            if self.kernel_size == (3, 3) and -(-side // stride) <= _SMALL_OUTPUT:
                return self._place_by_place(input, stride)
        return super().forward(input)

    def _place_by_place(self, maps: Tensor, stride: int) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else maps.dtype
        maps = maps.to(dtype).permute(0, 2, 3, 1).contiguous()  # (B, H, W, I)
        kernel = self.weight.to(dtype).permute(0, 2, 3, 1).contiguous()  # (O, 3, 3, I)
        out: Tensor = _PlaceByPlace.apply(maps, kernel, stride)  # (B, H', W', O)
        return out.permute(0, 3, 1, 2)  # (B, O, H', W')


class _Place(NamedTuple):
    """A place of the output: where it lies, what it sees of the map, and with which taps."""

    row: int
    column: int
    window: tuple[slice, slice, slice]
    taps: tuple[slice, slice, slice]


def _places(height: int, width: int, stride: int) -> Iterator[_Place]:
    """Every place of the output of a 3×3 convolution with padding 1."""
    everything = slice(None)
    for row, top in enumerate(range(-1, height - 1, stride)):
        for column, left in enumerate(range(-1, width - 1, stride)):
            rows, row_taps = _overlap(top, height)
            columns, column_taps = _overlap(left, width)
            yield _Place(
                row, column, (everything, rows, columns), (everything, row_taps, column_taps)
            )


def _overlap(start: int, size: int) -> tuple[slice, slice]:
    """What of three taps from `start` lies within 0 to `size`: of the map, and of the taps."""
    first, last = max(start, 0), min(start + 3, size)
    return slice(first, last), slice(first - start, last - start)


class _PlaceByPlace(torch.autograd.Function):
    """A 3×3 convolution with padding 1: one matrix product a place, over the taps that see it."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, kernel: Tensor, stride: int) -> Tensor:
        b, height, width, _ = maps.shape
        out = maps.new_empty(b, -(-height // stride), -(-width // stride), len(kernel))
        for place in _places(height, width, stride):
            seen = maps[place.window].flatten(1)  # (B, taps · I)
            taps = kernel[place.taps].flatten(1)  # (O, taps · I)
            out[:, place.row, place.column] = seen @ taps.T  # (B, O)
        ctx.save_for_backward(maps, kernel)
        ctx.stride = stride
        return out  # (B, H', W', O)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (of_out,) = gradients  # (B, H', W', O)
        maps, kernel = ctx.saved_tensors
        of_maps = torch.zeros_like(maps)  # (B, H, W, I)
        exact = torch.promote_types(kernel.dtype, torch.float32)  # it sums over the places
        of_kernel = torch.zeros_like(kernel, dtype=exact)  # (O, 3, 3, I)
        for place in _places(maps.shape[1], maps.shape[2], ctx.stride):
            here = of_out[:, place.row, place.column].contiguous()  # (B, O)
            seen, taps = maps[place.window], kernel[place.taps]
            of_maps[place.window] += (here @ taps.flatten(1)).view(seen.shape)
            of_kernel[place.taps] += (here.T @ seen.flatten(1)).view(taps.shape)
        return of_maps, of_kernel.to(kernel.dtype), None
