"""Dropout as a function of (seed, step, place in the batch), not of how the process got there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Noise:
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
            rate: Probability in [0, 1); nothing is drawn at 0.

        Returns:
            As `values`, with the same mean in expectation.
        """
        if rate == 0:
            return values
        rows = values.shape[0]
        keep = torch.rand(
            (self.batch_size, *values.shape[1:]), generator=self.generator, device=values.device
        )
        keep = keep[self.first_row : self.first_row + rows] >= rate  # (rows, …)
        return values * keep / (1 - rate)


def dropout(values: Tensor, rate: float, noise: Noise | None) -> Tensor:
    """As `Noise.dropout`; without noise, as in evaluation, the values themselves."""
    return values if noise is None else noise.dropout(values, rate)
