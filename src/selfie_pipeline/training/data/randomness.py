"""Random numbers as a function of seed, stream and step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # torch takes seconds to import; the ingest stage works without it
    import torch


class RandomStream(IntEnum):
    """A purpose of random numbers; those of different streams are independent."""

    WEIGHTS = 0
    SHUFFLE = 1
    AUGMENTATION = 2
    MASK = 3
    DROPOUT = 4
    SUBSET = 5
    PRETRAINING_IMAGES = 6
    VALIDATION = 7
    HELD_OUT = 8


def fold_in(seed: int, stream: RandomStream, step: int = 0) -> int:
    """Derive a 63-bit seed for one stream at one step, unrelated to all others."""
    state = np.random.SeedSequence([seed, stream, step]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def generator(seed: int, stream: RandomStream, step: int) -> torch.Generator:
    """Create a torch generator for one stream at one step."""
    import torch  # noqa: PLC0415

    return torch.Generator().manual_seed(fold_in(seed, stream, step))


@contextmanager
def seeded_initialisation(seed: int) -> Iterator[None]:
    """Initialise networks from the seed within this context; torch's random state is kept."""
    import torch  # noqa: PLC0415

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold_in(seed, RandomStream.WEIGHTS))
        yield
