"""Statistics over a few seeds, and statistical tests that compare two arms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray
from scipy.special import fdtri, stdtrit

_RESAMPLES = 2**14
"""Maximum number of sign patterns; they are enumerated up to 14 pairs and drawn at random above."""
_SIGNS_AT_ONCE = 2**20
"""Number of signs that are in memory at once, of all pairs of some patterns."""
_DECIMALS = 9
"""Mean differences that agree in so many decimals are ties: those of accuracies have errors of
about 1e-14, in another direction for each sign pattern."""


@dataclass(frozen=True)
class Summary:
    """Summary statistics of a sample, in the unit of its values; NaN where it has too few values.

    Attributes:
        n: Number of values.
        mean: Their mean; NaN without values.
        std: Sample standard deviation (``ddof=1``); NaN with fewer than two values.
        low: Lower end of the mean's 95 % confidence interval (Student's t); NaN with fewer than two
            values, and if all are equal, because an interval of width zero would claim certainty.
        high: Upper end of the interval.
    """

    n: int
    mean: float
    std: float = math.nan
    low: float = math.nan
    high: float = math.nan


def summarise(values: ArrayLike) -> Summary:
    """Compute the mean, its 95 % confidence interval and the sample standard deviation.

    For the differences of paired values, the interval is that of the paired t test.

    Args:
        values: (n,) numbers of any unit; n may be 0.

    Returns:
        Their summary, in the same unit.

    Raises:
        ValueError: The values are not one-dimensional, or one is not finite.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not np.isfinite(sample).all():
        raise ValueError(f"expected finite numbers in one dimension, got {sample}")
    n = sample.size
    mean = float(sample.mean()) if n else math.nan
    if n < 2:  # noqa: PLR2004  # one value has no standard deviation
        return Summary(n, mean)
    if _all_equal(sample):
        return Summary(n, mean, std=0.0)
    std = float(sample.std(ddof=1))
    margin = float(stdtrit(n - 1, 0.975)) * std / math.sqrt(n)
    return Summary(n, mean, std, mean - margin, mean + margin)


@dataclass(frozen=True)
class Ratio:
    """A ratio of two standard deviations and its 95 % confidence interval; NaN where undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class McNemarResult:
    """The result of McNemar's exact test.

    Attributes:
        gained: Number of samples that only our classifier gets right.
        lost: Number of samples that only the other classifier gets right.
        p: Two-sided p value.
    """

    gained: int
    lost: int
    p: float


def paired_t_p(ours: ArrayLike, theirs: ArrayLike) -> float:
    """Return the two-sided p value of the paired t test, which matches `summarise`'s interval.

    Args:
        ours: (n,) numbers.
        theirs: (n,) numbers in the same unit, each measured under the same conditions (with the
            same seed) as the number at its index in `ours`.

    Returns:
        The p value, which assumes normally distributed differences; NaN with fewer than two pairs,
        and if all differences are equal, because their variance is then unknown.

    Raises:
        ValueError: The lengths differ, or a value is not finite.
    """
    ours, theirs = _check_pairs(ours, theirs)
    if len(ours) < 2 or _all_equal(ours - theirs):  # noqa: PLR2004
        return math.nan
    return float(scipy.stats.ttest_rel(ours, theirs).pvalue)


def paired_permutation_p(ours: ArrayLike, theirs: ArrayLike) -> float:
    """Return the two-sided p value of the paired permutation test of the mean difference.

    Under the null hypothesis the two arms of a pair are exchangeable; no distribution is assumed.
    The test is exact up to 14 pairs (means that agree in nine decimals are equal), and p is never
    below 2 / 2ⁿ: it is at least 0.06 with 5 pairs, so fewer than 6 pairs cannot reach 0.05.

    Args:
        ours: (n,) numbers.
        theirs: (n,) numbers, paired as in `paired_t_p`.

    Returns:
        The p value, deterministic; NaN with fewer than two pairs.

    Raises:
        ValueError: The lengths differ, or a value is not finite.
    """
    ours, theirs = _check_pairs(ours, theirs)
    if len(ours) < 2:  # noqa: PLR2004
        return math.nan
    result = scipy.stats.permutation_test(  # type: ignore[attr-defined]  # scipy has no types
        (ours - theirs,),  # with a single sample, "samples" flips the signs
        lambda differences, axis: differences.mean(axis).round(_DECIMALS),
        permutation_type="samples",
        n_resamples=_RESAMPLES,
        batch=max(1, _SIGNS_AT_ONCE // len(ours)),
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def ratio_of_stds(numerator: ArrayLike, denominator: ArrayLike) -> Ratio:
    """Return the ratio of two samples' standard deviations, with its 95 % confidence interval.

    The interval, of the F test, assumes two independent, normally distributed samples. Arms that
    share their seeds are only approximately independent: if their values are correlated, the true
    interval is narrower. It is wide: with 5 seeds per arm it spans a factor of 9.6.

    Args:
        numerator: (n,) numbers.
        denominator: (m,) numbers in the same unit.

    Returns:
        std(numerator) / std(denominator); NaN throughout if either sample has fewer than two
        values or a standard deviation of zero.

    Raises:
        ValueError: The values are not one-dimensional, or one is not finite.
    """
    first, second = summarise(numerator), summarise(denominator)
    if not (first.std > 0 and second.std > 0):  # also catches NaN
        return Ratio(math.nan, math.nan, math.nan)
    ratio = first.std / second.std
    low, high = (fdtri(first.n - 1, second.n - 1, p) for p in (0.025, 0.975))  # of variances
    return Ratio(ratio, ratio / math.sqrt(high), ratio / math.sqrt(low))


def mcnemar_test(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> McNemarResult:
    """Run McNemar's exact test on the samples that only one of two classifiers gets right.

    The test generalises to other test samples and assumes independent predictions. Predictions
    pooled over seeds are not independent, because a hard sample is hard for every seed. The p value
    is then too small, and does not generalise to other seeds; the paired tests over seeds do.

    Args:
        ours: (N,) bool, whether each prediction is correct; N may be 0.
        theirs: (N,) bool, for the same samples in the same order.

    Returns:
        The numbers of samples that only one classifier gets right, and the two-sided p value.

    Raises:
        ValueError: The shapes differ or are not one-dimensional.
    """
    if ours.ndim != 1 or ours.shape != theirs.shape:
        raise ValueError(f"predictions of shapes {ours.shape} and {theirs.shape} cannot be paired")
    gained, lost = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    decided = gained + lost  # under the null hypothesis, a fair coin decides each
    test = scipy.stats.binomtest  # type: ignore[attr-defined]  # scipy has no types
    return McNemarResult(gained, lost, float(test(gained, decided).pvalue) if decided else 1.0)


def _check_pairs(
    ours: ArrayLike, theirs: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    pair = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if pair[0].ndim != 1 or pair[0].shape != pair[1].shape or not np.isfinite(pair).all():
        raise ValueError(f"expected equally many finite numbers from both arms, got {pair}")
    return pair


def _all_equal(values: NDArray[np.float64]) -> bool:
    """Return whether all values are equal up to the rounding errors of accuracies."""
    return bool(np.ptp(values) <= 1e-9 * max(1.0, float(np.abs(values).max())))
