"""Random numbers that depend on seed, purpose and step alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What random numbers are for; each purpose has a stream of its own under one seed."""

    WEIGHTS = 0
    SHUFFLE = 1
    AUGMENTATION = 2
    MASK = 3
    DROPOUT = 4
    SUBSET = 5
    PRETRAINING_IMAGES = 6
    VALIDATION = 7


def fold_in(seed: int, purpose: Purpose, step: int = 0) -> int:
    """A 63-bit seed for one purpose at one step, unrelated to that of any other."""
    state = np.random.SeedSequence([seed, purpose, step]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def generator(
    seed: int, purpose: Purpose, step: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A torch generator for one purpose at one step."""
    return torch.Generator(device).manual_seed(fold_in(seed, purpose, step))


@contextmanager
def seeded_initialisation(seed: int) -> Iterator[None]:
    """Within this context, networks are initialised as the seed says; torch's state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold_in(seed, Purpose.WEIGHTS))
        yield
