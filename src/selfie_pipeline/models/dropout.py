"""Dropout as a function of seed, step and row of the batch, on any device and number of workers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LEVELS = 2**16
_INCREMENT = 0x9E3779B97F4A7C15 - 2**64  # of SplitMix64, as int64
_FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


class DropoutRng:
    """The random numbers of one training step, for some rows of its batch.

    The n-th word of a step is the n-th output of the generator SplitMix64 (Steele, Lea, Flood:
    "Fast splittable pseudorandom number generators", 2014). It is computed from n and the seed
    alone. So a batch drops the same units however it is divided into micro-batches and among
    workers, on every device; and a compiler sees arithmetic, not the state of a generator.
    """

    def __init__(
        self, seed: int, batch_size: int, first_row: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        """Begin the sequence of a step.

        Args:
            seed: Seed of the step, below 2^63.
            batch_size: Number of rows of the complete batch.
            first_row: Index of this micro-batch's first row in it.
            device: Device of the numbers.
        """
        # Tensors, since compiled code would be compiled anew for every other int.
        self._seed = torch.full((), seed, device=device)  # int64
        self._first_row = torch.full((), first_row, device=device)  # int64
        self._batch_size = batch_size
        self._words = 0  # drawn so far, for the complete batch

    def draw(self, shape: torch.Size) -> Tensor:
        """Draw int16 numbers, uniform over the dtype's range: (rows, …) of this micro-batch."""
        rows, size = shape[0], math.prod(shape[1:])
        words = -(-size // 4)  # of a row
        index = torch.arange(1, rows * words + 1, device=self._seed.device)  # (rows · words,)
        first = self._words + self._first_row * words
        self._words += self._batch_size * words
        drawn = _splitmix64(index.add_(first).mul_(_INCREMENT).add_(self._seed))
        return drawn.view(torch.int16).view(rows, -1)[:, :size].view(shape)  # (rows, …)


def _splitmix64(state: Tensor) -> Tensor:
    """Compute SplitMix64's output for each int64 state, in place; products wrap around."""
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        state.bitwise_xor_(_shift_right(state, shift)).mul_(factor)
    return state.bitwise_xor_(_shift_right(state, 31))


def _shift_right(words: Tensor, bits: int) -> Tensor:
    """Shift as unsigned words are shifted: zeros come in."""
    return (words >> bits).bitwise_and_(2 ** (64 - bits) - 1)


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
    lowest = min(round(rate * _LEVELS), _LEVELS - 1) - _LEVELS // 2
    return values * (rng.draw(values.shape) >= lowest) / (1 - rate)
