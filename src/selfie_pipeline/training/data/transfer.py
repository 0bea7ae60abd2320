"""Tensors on their way between the host and the device, without anybody waiting for them."""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; nobody waits for the copy, which page-locked memory allows."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class AsyncCopy:
    """Numbers asked of the device: the copy queues behind what it has to do, and is read later."""

    def __init__(self, numbers: Tensor) -> None:
        self._here = numbers
        self._arrival: torch.cuda.Event | None = None
        if numbers.is_cuda:
            self._here = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._here.copy_(numbers, non_blocking=True)
            self._arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrival.record()

    def read(self) -> Tensor:
        """The numbers on the host; waits until they have arrived."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return self._here
