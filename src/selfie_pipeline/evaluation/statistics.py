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
        values: (n,) finite numbers of any unit; n may be 0.

    Returns:
        Their summary, in the same unit.
    """
    sample = np.asarray(values, dtype=np.float64)
    n = sample.size
    mean = float(sample.mean()) if n else math.nan
    if n < 2:  # noqa: PLR2004  # one value has no standard deviation
        return Summary(n, mean)
    if _all_equal(sample):
        return Summary(n, mean, std=0.0)
    std = float(sample.std(ddof=1))
    margin = float(stdtrit(n - 1, 0.975)) * std / math.sqrt(n)
    return Summary(n, mean, std, mean - margin, mean + margin)


def paired_t_p(differences: ArrayLike) -> float:
    """Return the two-sided p value of the paired t test, which matches `summarise`'s interval.

    Args:
        differences: (n,) finite numbers, each the difference of two values that were measured under
            the same conditions (with the same seed).

    Returns:
        The p value, which assumes normally distributed differences; NaN with fewer than two pairs,
        and if all differences are equal, because their variance is then unknown.
    """
    sample = np.asarray(differences, dtype=np.float64)
    if len(sample) < 2 or _all_equal(sample):  # noqa: PLR2004
        return math.nan
    return float(scipy.stats.ttest_1samp(sample, 0).pvalue)


def paired_permutation_p(differences: ArrayLike) -> float:
    """Return the two-sided p value of the paired permutation test of the mean difference.

    Under the null hypothesis the two arms of a pair are exchangeable; no distribution is assumed.
    The test is exact up to 14 pairs (means that agree in nine decimals are equal), and p is never
    below 2 / 2ⁿ: it is at least 0.06 with 5 pairs, so fewer than 6 pairs cannot reach 0.05.

    Args:
        differences: (n,) finite numbers, as for `paired_t_p`.

    Returns:
        The p value, deterministic; NaN with fewer than two pairs.
    """
    sample = np.asarray(differences, dtype=np.float64)
    if len(sample) < 2:  # noqa: PLR2004
        return math.nan
    result = scipy.stats.permutation_test(  # type: ignore[attr-defined]  # scipy has no types
        (sample,),  # with a single sample, "samples" flips the signs
        lambda values, axis: values.mean(axis).round(_DECIMALS),
        permutation_type="samples",
        n_resamples=_RESAMPLES,
        batch=max(1, _SIGNS_AT_ONCE // len(sample)),
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def ratio_of_stds(numerator: ArrayLike, denominator: ArrayLike) -> tuple[float, float, float]:
    """Compute the ratio of two samples' standard deviations, with its 95 % confidence interval.

    The interval, of the F test, assumes two independent, normally distributed samples. Arms that
    share their seeds are only approximately independent: if their values are correlated, the true
    interval is narrower. It is wide: with 5 seeds per arm it spans a factor of 9.6.

    Args:
        numerator: (n,) finite numbers.
        denominator: (m,) finite numbers in the same unit.

    Returns:
        std(numerator) / std(denominator), and the ends of its interval; NaN throughout if either
        sample has fewer than two values or a standard deviation of zero.
    """
    first, second = summarise(numerator), summarise(denominator)
    if not (first.std > 0 and second.std > 0):  # also catches NaN
        return math.nan, math.nan, math.nan
    ratio = first.std / second.std
    low, high = (fdtri(first.n - 1, second.n - 1, p) for p in (0.025, 0.975))  # of variances
    return ratio, ratio / math.sqrt(high), ratio / math.sqrt(low)


def mcnemar_test(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> tuple[int, int, float]:
    """Run McNemar's exact test on the samples that only one of two classifiers gets right.

    The test generalises to other test samples and assumes independent predictions. Predictions
    pooled over seeds are not independent, because a hard sample is hard for every seed. The p value
    is then too small, and does not generalise to other seeds; the paired tests over seeds do.

    Args:
        ours: (N,) bool, whether each prediction is correct; N may be 0.
        theirs: (N,) bool, for the same samples in the same order.

    Returns:
        The numbers of samples that only our and only the other classifier gets right, and the
        two-sided p value.
    """
    gained, lost = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    decided = gained + lost  # under the null hypothesis, a fair coin decides each
    test = scipy.stats.binomtest  # type: ignore[attr-defined]  # scipy has no types
    return gained, lost, float(test(gained, decided).pvalue) if decided else 1.0


def _all_equal(values: NDArray[np.float64]) -> bool:
    """Return whether all values are equal up to the rounding errors of accuracies."""
    return bool(np.ptp(values) <= 1e-9 * max(1.0, float(np.abs(values).max())))
