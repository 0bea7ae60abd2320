"""What can be said of numbers that were measured over a few seeds, and of two arms of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import fdtri, stdtrit
from statsmodels.stats.contingency_tables import mcnemar

_RESAMPLES = 2**14
"""Sign patterns of up to 14 pairs are all tried; of more pairs, so many are drawn at random."""


@dataclass(frozen=True)
class Spread:
    """A sample's mean and spread, in the unit of its values; NaN where too few say nothing.

    Attributes:
        n: Number of values.
        mean: Their mean; NaN without values.
        std: Sample standard deviation (``ddof=1``); NaN with fewer than two values.
        low: Lower end of the mean's 95 % interval (Student's t); NaN with fewer than two values,
            and where all are equal: an interval without width would claim to be certain.
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
    if _all_equal(sample):
        return Spread(n, mean, 0.0, math.nan, math.nan)
    std = float(sample.std(ddof=1))
    reach = float(stdtrit(n - 1, 0.975)) * std / math.sqrt(n)
    return Spread(n, mean, std, mean - reach, mean + reach)


@dataclass(frozen=True)
class Ratio:
    """A ratio of two standard deviations and its 95 % interval; NaN where too few say nothing."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class McNemarResult:
    """On how many samples only one of two classifiers is right.

    Attributes:
        gained: Samples that only ours has right.
        lost: Samples that only theirs has right.
        p: Of McNemar's exact test.
    """

    gained: int
    lost: int
    p: float


def paired_t_p(ours: ArrayLike, theirs: ArrayLike) -> float:
    """The two-sided p value of the paired t test: the one whose interval `spread` gives.

    Args:
        ours: (n,) numbers.
        theirs: (n,) numbers in the same unit, each measured under the same conditions (the same
            seed) as ours in its place.

    Returns:
        The p value, for differences that are normally distributed; NaN with fewer than two pairs,
        and where all differences are equal and so say nothing of their spread.

    Raises:
        ValueError: The values do not pair up, or one is not finite.
    """
    ours, theirs = _paired(ours, theirs)
    if len(ours) < 2 or _all_equal(ours - theirs):  # noqa: PLR2004
        return math.nan
    return float(stats.ttest_rel(ours, theirs).pvalue)


def paired_permutation_p(ours: ArrayLike, theirs: ArrayLike) -> float:
    """The two-sided p value of the paired permutation test of the mean difference.

    Under its hypothesis, that of no difference, the two arms of a pair could as well be exchanged;
    nothing is assumed of their distribution. It is exact up to 14 pairs and never below 2 / 2ⁿ:
    with 5 pairs 0.06, so that fewer than 6 cannot reach 0.05.

    Args:
        ours: (n,) numbers.
        theirs: (n,) numbers, as in `paired_t_p`.

    Returns:
        The p value, the same at each call; NaN with fewer than two pairs.

    Raises:
        ValueError: As `paired_t_p`.
    """
    ours, theirs = _paired(ours, theirs)
    if len(ours) < 2:  # noqa: PLR2004
        return math.nan
    tested = stats.permutation_test(  # type: ignore[attr-defined]  # scipy has no types
        (ours - theirs,),  # of one sample, "samples" flips the signs
        np.mean,
        permutation_type="samples",
        n_resamples=_RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return float(tested.pvalue)


def ratio_of_stds(above: ArrayLike, below: ArrayLike) -> Ratio:
    """The ratio of two samples' standard deviations, with the 95 % interval of the F test.

    The interval assumes two independent samples of normal distributions. With arms that share
    their seeds the first holds only nearly: values that rise and fall together make the true
    interval narrower. It is wide: with 5 seeds an arm it spans a factor of 9.6.

    Args:
        above: (n,) numbers.
        below: (m,) numbers in the same unit.

    Returns:
        std(above) / std(below); NaN throughout where either has fewer than two values or does not
        vary at all.

    Raises:
        ValueError: As `spread`.
    """
    first, second = spread(above), spread(below)
    if not (first.std > 0 and second.std > 0):  # also catches NaN
        return Ratio(math.nan, math.nan, math.nan)
    ratio = first.std / second.std
    low, high = (fdtri(first.n - 1, second.n - 1, p) for p in (0.025, 0.975))  # of variances
    return Ratio(ratio, ratio / math.sqrt(high), ratio / math.sqrt(low))


def mcnemar_test(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> McNemarResult:
    """McNemar's exact test: does one classifier get right what the other gets wrong, or both alike?

    It speaks of other test samples, and counts each answer as independent of the others. Answers
    pooled over several seeds are not: a hard sample is hard for all of them. Its p value is then
    too small, and it says nothing of other seeds; the paired tests over the seeds do.

    Args:
        ours: (N,) bool, whether each answer is right; N may be 0.
        theirs: (N,) bool, of the same samples in the same order.

    Returns:
        The numbers of samples that one alone has right, and the two-sided p value.

    Raises:
        ValueError: The answers do not pair up.
    """
    if ours.ndim != 1 or ours.shape != theirs.shape:
        raise ValueError(f"answers of shape {ours.shape} and {theirs.shape} do not pair up")
    gained, lost = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    both, neither = int((ours & theirs).sum()), int((~ours & ~theirs).sum())
    table = [[both, gained], [lost, neither]]
    tested = mcnemar(table, exact=True)  # type: ignore[no-untyped-call]  # nor has statsmodels
    return McNemarResult(gained, lost, float(tested.pvalue))


def _paired(ours: ArrayLike, theirs: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    pair = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if pair[0].ndim != 1 or pair[0].shape != pair[1].shape or not np.isfinite(pair).all():
        raise ValueError(f"expected as many finite numbers of both arms, got {pair}")
    return pair


def _all_equal(values: NDArray[np.float64]) -> bool:
    """But for the rounding of accuracies, which are multiples of one over the test samples."""
    return bool(np.ptp(values) <= 1e-9 * max(1.0, float(np.abs(values).max())))
