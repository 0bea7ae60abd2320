"""Memory: reuse between batches, what a training takes, and errors if it does not suffice."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor, nn

from selfie_pipeline.config import UserError

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h
_NEVER = 2**31 - 1
_PROCESS_BYTES = 2**30
"""Memory of a process that has imported torch and this project, with some room."""
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_CGROUP_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Of versions 2 and 1, by controller: limit, use, and the key of the page cache in memory.stat."""
_OUT_OF_MEMORY = re.compile(
    r"(?:out of memory|can't allocate memory|unable).*?allocate ([\d.]+ \w+)", re.I | re.S
)
"""The messages of torch, for a GPU and for a CPU, and of NumPy."""
_SIZE_UNKNOWN = re.compile(r"CUDA.*out of memory|STATUS_ALLOC_FAILED")
"""In the messages of CUDA and its libraries, when other processes take the memory."""
_OVERFLOW = re.compile(r"size calculation overflow|Overflow when unpacking")
"""In torch's messages on sizes that it can't even count in 64 bits."""


def retain_freed_memory() -> None:
    """Make the C library keep the memory that a batch frees for the next one, if it is glibc.

    By default it returns every large tensor to the system as soon as it is freed. The next batch
    requests the same amount, page by page: about 280,000 page faults in a training step at the
    paper's size, a fifth of the step's time. With this setting, the process keeps the peak memory
    of a batch until it ends.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, _NEVER)


def training_bytes(network: nn.Module, images: Tensor) -> int:
    """Estimate the memory of a process that trains a network on a CPU in fp32.

    Args:
        network: The network, on the device `meta`, so that nothing is computed.
        images: (B, C, H, W): a batch, on the device `meta`.

    Returns:
        Bytes: of the process itself, the weights with gradients, momentum and a checkpoint, and the
        tensors that the forward pass keeps, with as much again for the backward pass.
    """
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images)
    activations = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    weights = sum(parameter.nbytes for parameter in network.parameters())
    return _PROCESS_BYTES + 4 * weights + 2 * activations


def available_memory() -> int:
    """Return the memory that new processes can take, in bytes.

    It is that of the machine, or what the control groups of a container or a batch job leave.
    """
    if not Path("/proc/meminfo").exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return min([int(fields["MemAvailable"].split()[0]) * 2**10, *_memory_left_by_cgroups()])


def _memory_left_by_cgroups() -> Iterator[int]:
    """Yield what each limit leaves, in bytes, of this process's control groups and those above."""
    own = _OWN_CGROUPS.read_text().splitlines() if _OWN_CGROUPS.exists() else []
    for controller, path in (line.split(":", 2)[1:] for line in own):
        if controller not in _CGROUP_FILES:
            continue
        maximum, current, cache = _CGROUP_FILES[controller]
        group = PurePosixPath(path)
        for each in (group, *group.parents):
            folder = _CGROUPS / controller / str(each).lstrip("/")
            with suppress(OSError, ValueError):  # another system's path, or without a limit
                limit, used = (int((folder / name).read_text()) for name in (maximum, current))
                yield limit - used + _reclaimable_memory(folder, cache)


def _reclaimable_memory(folder: Path, key: str) -> int:
    """Return the page cache that the system frees on demand, bytes; 0 if not known."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
        return int(dict(line.split() for line in lines)[key])
    except (OSError, ValueError, KeyError):
        return 0


@contextmanager
def out_of_memory_error(problem: str, advice: str) -> Iterator[None]:
    """Replace torch's error with one line if memory does not suffice.

    Args:
        problem: What did not fit, the start of the line.
        advice: What to do, its end.

    Raises:
        UserError: Memory does not suffice.
    """
    try:
        yield
    except (RuntimeError, MemoryError, TypeError) as error:  # torch has its own class only on a GPU
        if found := _OUT_OF_MEMORY.search(str(error)):
            requested = f"{found[1]} more requested"
        elif _SIZE_UNKNOWN.search(str(error)):
            requested = "more requested than is free"
        elif _OVERFLOW.search(str(error)):
            requested = "more requested than 64 bits can count"
        else:
            raise
        raise UserError(f"{problem} ({requested}); {advice}") from error


def network_too_large_error() -> AbstractContextManager[None]:
    """Replace torch's error with one line of advice if a new network does not fit in memory.

    Raises:
        UserError: The network does not fit in memory.
    """
    return out_of_memory_error(
        "out of memory for the network",
        "reduce model.width, model.layers or model.attention.intermediate",
    )
