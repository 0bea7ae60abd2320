"""What can be said of a number that was measured over a few seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit


@dataclass(frozen=True)
class Spread:
    """A sample's mean and spread, in the unit of its values; NaN where too few say nothing.

    Attributes:
        n: Number of values.
        mean: Their mean; NaN without values.
        std: Sample standard deviation (``ddof=1``); NaN with fewer than two values.
        low: Lower end of the mean's 95 % interval (Student's t); NaN with fewer than two values.
        high: Upper end of the same.
    """

    n: int
    mean: float
    std: float
    low: float
    high: float


def spread(values: ArrayLike) -> Spread:
    """Mean, sample standard deviation and 95 % interval of the mean.

    Given the differences of paired values, the interval is that of the paired t test.

    Args:
        values: (n,) numbers of any unit, n may be 0.

    Returns:
        Their spread, in the same unit.

    Raises:
        ValueError: The values are not one-dimensional, or one is not finite.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not np.isfinite(sample).all():
        raise ValueError(f"expected finite numbers in one dimension, got {sample}")
    n = sample.size
    mean = float(sample.mean()) if n else math.nan
    if n < 2:  # noqa: PLR2004  # one value has no spread
        return Spread(n, mean, math.nan, math.nan, math.nan)
    std = float(sample.std(ddof=1))
    reach = float(stdtrit(n - 1, 0.975)) * std / math.sqrt(n)
    return Spread(n, mean, std, mean - reach, mean + reach)
