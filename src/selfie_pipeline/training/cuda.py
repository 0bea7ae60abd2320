"""Everything that is asked of CUDA; no other module calls `torch.cuda`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def is_available() -> bool:
    """Return whether torch sees a GPU."""
    return torch.cuda.is_available()


def has_bf16() -> bool:
    """Return whether the GPU itself computes in bfloat16; emulation would be slower than fp32."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def gpu_name() -> str:
    """Return the name of the GPU."""
    return torch.cuda.get_device_name()


def free_bytes() -> int:
    """Return the bytes of the GPU's memory that are free, after torch has released its reserve."""
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    return free


def use_gpu(gpu: torch.device) -> None:
    """Make this GPU the one that this process computes on."""
    torch.cuda.set_device(gpu)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to the device without blocking, which needs page-locked memory."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class CopyStream:
    """A stream beside the step's, so that copies to a GPU overlap with the step; none on a CPU."""

    def __init__(self, device: str) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device == "cuda":
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def use(self) -> None:
        """Send the calling thread's operations to this stream, and to the GPU that it is of.

        A thread begins with the first GPU, on which it would take memory, whichever the others use.
        """
        if self._stream is not None:
            torch.cuda.set_stream(self._stream)

    def record_use(self, tensors: Iterable[Tensor]) -> None:
        """Make the step's stream wait for this one, and leave tensors made on this one to it."""
        if self._stream is None:
            return
        current = torch.cuda.current_stream()
        current.wait_stream(self._stream)
        for tensor in tensors:
            tensor.record_stream(current)  # or this stream would reuse its memory too early


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
