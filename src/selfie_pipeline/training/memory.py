"""Memory: how this process holds on to it between batches, and what it says where it lacks."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager

from selfie_pipeline.config import UserError

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h
_NEVER = 2**31 - 1
_LACK = re.compile(
    r"(?:out of|can't allocate) memory.*?tried to allocate ([\d.]+ \w+)", re.I | re.S
)
"""What torch says: of a GPU, and of a CPU."""


def retain_freed_memory() -> None:
    """Have the C library keep what a batch frees for the next one, where it is glibc.

    By default it gives every large tensor back to the system as soon as it is freed. The next
    batch asks for the same amount, page by page: some 280,000 page faults a training step at the
    paper's size, a fifth of the step's time. Kept, memory stays at the peak of a batch until the
    process ends.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, _NEVER)


@contextmanager
def out_of_memory_error(title: str, images: int) -> Iterator[None]:
    """Say in one line what to do where a training's batch does not fit in memory.

    Args:
        title: What the training is called.
        images: As many as it computes at once.

    Raises:
        UserError: In the place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:  # on a GPU a class of its own, on a CPU not
        found = _LACK.search(str(error))
        if found is None:
            raise
        raise UserError(
            f"{title}: no memory for {images} images at once ({found[1]} more asked); compute the "
            "batch in more parts (accumulate), or take a smaller batch_size, width or image_size"
        ) from error
