"""Memory of this process: reuse between batches, and errors if it does not suffice."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager

from selfie_pipeline.config import UserError

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h
_NEVER = 2**31 - 1
_OUT_OF_MEMORY = re.compile(
    r"(?:out of|can't allocate) memory.*?tried to allocate ([\d.]+ \w+)", re.I | re.S
)
"""The message of torch's error, for a GPU and for a CPU."""


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


@contextmanager
def out_of_memory_error(title: str, images: int) -> Iterator[None]:
    """Replace torch's error with one line of advice if a training's batch does not fit in memory.

    Args:
        title: The training's name in messages.
        images: Number of images that it computes at once.

    Raises:
        UserError: A batch does not fit in memory.
    """
    try:
        yield
    except RuntimeError as error:  # has its own class only on a GPU
        found = _OUT_OF_MEMORY.search(str(error))
        if found is None:
            raise
        raise UserError(
            f"{title}: out of memory with {images} images at once ({found[1]} more requested); "
            "split the batch into more parts (accumulate), or reduce batch_size, width or "
            "image_size"
        ) from error
