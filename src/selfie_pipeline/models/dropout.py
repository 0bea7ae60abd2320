"""Dropout as a function of (seed, step, place in the batch), not of how the process got there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_LEVELS = 2**16


@dataclass(frozen=True)
class DropoutRng:
    """The random numbers of one training step, for some rows of its batch.

    Every part of a batch draws the numbers of the whole batch and keeps its own rows. So a batch
    computed in parts, or by several workers, drops the units that it drops when computed at once.

    Attributes:
        generator: At the step's seed, on the device of the tensors.
        batch_size: Rows of the whole batch.
        first_row: Place of this part's first row in it.
    """

    generator: torch.Generator
    batch_size: int
    first_row: int = 0

    def dropout(self, values: Tensor, rate: float) -> Tensor:
        """Set each of the values to zero with probability `rate`, scaling the others up.

        Args:
            values: (rows, …) of this part of the batch.
            rate: Probability in [0, 1), taken to the nearest 1 / 65,536; nothing is drawn at 0.

        Returns:
            As `values`, with the same mean in expectation.
        """
        if rate == 0:
            return values
        rows = values.shape[0]
        lowest = round(rate * _LEVELS) - _LEVELS // 2
        drawn = self._draw((self.batch_size, *values.shape[1:]))  # (batch_size, …)
        keep = drawn[self.first_row : self.first_row + rows] >= lowest  # (rows, …)
        return values * keep / (1 - rate)

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        """Evenly distributed over all of int16: a quarter of the generator's calls for floats."""
        words = torch.empty(
            -(-math.prod(shape) // 4), dtype=torch.int64, device=self.generator.device
        )
        words.random_(-(2**63), None, generator=self.generator)  # every bit is random
        return words.view(torch.int16)[: math.prod(shape)].view(shape)


def dropout(values: Tensor, rate: float, noise: DropoutRng | None) -> Tensor:
    """As `DropoutRng.dropout`; without noise, as in evaluation, the values themselves."""
    return values if noise is None else noise.dropout(values, rate)
