"""Asynchronous copies between the host and the device."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to the device without blocking, which needs page-locked memory."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class AsyncCopy:
    """A copy from the device to the host, queued behind the device's work and read later."""

    def __init__(self, numbers: Tensor) -> None:
        self._copy = numbers
        self._done: torch.cuda.Event | None = None
        if numbers.is_cuda:
            self._copy = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._copy.copy_(numbers, non_blocking=True)
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    def read(self) -> Tensor:
        """Return the numbers on the host, waiting for them where necessary."""
        if self._done is not None:
            self._done.synchronize()
        return self._copy
