"""Dropout as a function of seed, step and row of the batch, for any number of workers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_LEVELS = 2**16


@dataclass(frozen=True)
class DropoutRng:
    """The random numbers of one training step, for some rows of its batch.

    Every micro-batch draws the numbers of the complete batch and keeps those of its rows. So a
    batch drops the same units, however it is divided into micro-batches and among workers.

    Attributes:
        generator: Generator with the step's seed, on the device of the tensors.
        batch_size: Number of rows of the complete batch.
        first_row: Index of this micro-batch's first row in it.
    """

    generator: torch.Generator
    batch_size: int
    first_row: int = 0

    def draw(self, shape: torch.Size) -> Tensor:
        """Draw int16 numbers, uniform over the dtype's range: (rows, …) of this micro-batch."""
        batch_shape = (self.batch_size, *shape[1:])
        count = math.prod(batch_shape)
        # One call of the generator for four numbers; for floats it would be one for each.
        words = torch.empty(-(-count // 4), dtype=torch.int64, device=self.generator.device)
        words.random_(-(2**63), None, generator=self.generator)  # every bit is random
        drawn = words.view(torch.int16)[:count].view(batch_shape)  # (batch_size, …)
        return drawn[self.first_row : self.first_row + shape[0]]  # (rows, …)


def dropout(values: Tensor, rate: float, rng: DropoutRng | None) -> Tensor:
    """Set each of the values to zero with probability `rate`, and scale the others up.

    Args:
        values: (rows, …) of a micro-batch.
        rate: Probability in [0, 1), rounded to a multiple of 1 / 65,536; nothing is drawn at 0.
        rng: The random numbers; None in evaluation, which drops nothing.

    Returns:
        A tensor like `values`, with the same mean in expectation.
    """
    if rng is None or rate == 0:
        return values
    lowest = round(rate * _LEVELS) - _LEVELS // 2
    return values * (rng.draw(values.shape) >= lowest) / (1 - rate)
