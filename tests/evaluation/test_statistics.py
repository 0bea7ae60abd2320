"""Tests of the statistics, against hand calculations and published examples."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from selfie_pipeline.evaluation.statistics import (
    mcnemar_test,
    paired_permutation_p,
    paired_t_p,
    ratio_of_stds,
    summarise,
)

# Student (1908): extra hours of sleep of ten patients with two drugs; R's example of t.test.
SLEEP_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
SLEEP = np.subtract(SLEEP_1, SLEEP_2)


def predictions(both: int, gained: int, lost: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each prediction of two classifiers is correct, for the given counts."""
    counts = [both, gained, lost, neither]
    ours = np.repeat([True, True, False, False], counts)
    theirs = np.repeat([True, False, True, False], counts)
    return ours, theirs


def test_summary_by_hand() -> None:
    found = summarise([4, 6, 8, 6])
    assert (found.n, found.mean) == (4, 6)
    assert found.std == pytest.approx(math.sqrt(8 / 3))
    # t(0.975, 3) = 3.182 from a printed table; the standard error is half the std
    assert found.high - found.mean == pytest.approx(3.182 * math.sqrt(8 / 3) / 2, abs=1e-3)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_interval_is_that_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 5))
    interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    found = summarise(ours - theirs)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_students_sleep_data_matches_r() -> None:
    found = summarise(SLEEP)
    assert (found.low, found.high) == pytest.approx((-2.4598858, -0.7001142))
    assert paired_t_p(SLEEP) == pytest.approx(0.002833, abs=1e-6)


def test_one_value_has_no_standard_deviation() -> None:
    found = summarise([85.8])
    assert (found.n, found.mean) == (1, 85.8)
    assert all(math.isnan(value) for value in (found.std, found.low, found.high))


def test_no_values_have_no_mean() -> None:
    found = summarise([])
    assert found.n == 0
    assert math.isnan(found.mean)


def test_equal_values_have_no_interval() -> None:
    differences = [82.0 - 78.0, 84.0 - 80.0, 4 + 1e-14]
    found = summarise(differences)
    assert (found.mean, found.std) == (pytest.approx(4), 0)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(paired_t_p(differences))


def test_rounding_errors_of_large_values_are_no_difference() -> None:
    assert summarise([1e6, 1e6 + 1e-6]).std == 0
    assert summarise([1e6, 1e6 + 1e-2]).std > 0


def test_permutation_test_by_hand() -> None:
    # All four differences are positive: only 2 of the 2^4 sign patterns are as extreme.
    assert paired_permutation_p([4, 6, 8, 6]) == pytest.approx(2 / 16)
    assert paired_permutation_p([-2, -3]) == pytest.approx(2 / 4)
    assert paired_permutation_p([0, 0, 0]) == 1


def test_permutation_test_counts_every_sign_pattern() -> None:
    patterns = np.array(list(itertools.product([1, -1], repeat=10)))  # (1024, 10)
    below = (patterns @ SLEEP <= SLEEP.sum() + 1e-9).mean()
    assert paired_permutation_p(SLEEP) == pytest.approx(2 * below)


def test_permutation_test_counts_ties_of_accuracies_that_are_rounded() -> None:
    # Of the differences 5, -2 and 2 of 540, six of the 2^3 sign patterns have a sum of at least 5.
    ours, theirs = np.array([384, 383, 384]), np.array([379, 385, 382])
    assert paired_permutation_p(ours - theirs) == 6 / 8
    assert paired_permutation_p(100 * (ours / 540) - 100 * (theirs / 540)) == 6 / 8


def test_permutation_test_of_many_pairs_is_close_to_the_t_test_and_deterministic() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 40))
    differences = ours - theirs + 0.3
    found = paired_permutation_p(differences)
    assert found == paired_permutation_p(differences)
    assert found == pytest.approx(paired_t_p(differences), abs=0.02)


def test_the_memory_of_a_permutation_test_does_not_grow_with_the_pairs() -> None:
    differences = np.random.default_rng(0).normal(size=2000)
    tracemalloc.start()
    paired_permutation_p(differences)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150e6  # all patterns at once: 2 GB


@pytest.mark.parametrize("test", [paired_t_p, paired_permutation_p])
def test_paired_tests_need_two_pairs(test) -> None:
    assert math.isnan(test([1.0]))
    assert math.isnan(test([]))


def test_two_pairs_are_enough_for_a_test() -> None:
    # t = 2 / (sqrt(2) / sqrt(2)) = 2 with one degree of freedom: Cauchy's distribution
    assert paired_t_p([1.0, 3.0]) == pytest.approx(1 - 2 * math.atan(2) / math.pi)


def test_ratio_by_hand() -> None:
    ratio, low, high = ratio_of_stds([2, 4, 6, 8, 10], [1, 2, 3, 4, 5])
    assert ratio == pytest.approx(2)
    # F(0.975; 4, 4) = 9.6045 of variances, from a printed table
    assert low == pytest.approx(2 / math.sqrt(9.6045), rel=1e-4)
    assert high == pytest.approx(2 * math.sqrt(9.6045), rel=1e-4)


def test_ratio_with_different_numbers_of_seeds() -> None:
    # F(0.975; 2, 4) = 10.6491, F(0.975; 4, 2) = 39.2484
    ratio, low, high = ratio_of_stds([0, 1, 2], [0, 1, 2, 3, 4])
    assert ratio == pytest.approx(1 / math.sqrt(2.5))
    assert low == pytest.approx(ratio / math.sqrt(10.6491), rel=1e-4)
    assert high == pytest.approx(ratio * math.sqrt(39.2484), rel=1e-4)


def test_interval_of_the_ratio_covers_the_true_ratio_in_95_percent_of_samples() -> None:
    rng = np.random.default_rng(0)
    found = [ratio_of_stds(3 * ours, theirs) for ours, theirs in rng.normal(size=(2000, 2, 5))]
    coverage = np.mean([low < 3 < high for _, low, high in found])
    assert coverage == pytest.approx(0.95, abs=0.015)  # three standard errors


@pytest.mark.parametrize(
    ("numerator", "denominator"),
    [([1], [1, 2]), ([1, 2], []), ([1, 2], [3, 3]), ([3, 3], [1, 2]), ([3, 3], [3, 3])],
)
def test_no_ratio_without_two_standard_deviations(
    numerator: list[float], denominator: list[float]
) -> None:
    assert all(map(math.isnan, ratio_of_stds(numerator, denominator)))


def test_mcnemar_by_hand() -> None:
    gained, lost, p = mcnemar_test(*predictions(both=10, gained=5, lost=1, neither=3))
    assert (gained, lost) == (5, 1)
    assert p == pytest.approx(2 * (1 + 6) / 2**6)  # two-sided: at most 1 of 6 coins shows heads
    assert mcnemar_test(*predictions(both=2, gained=0, lost=0, neither=2)) == (0, 0, 1)


@pytest.mark.parametrize(
    ("counts", "p"),
    [  # statsmodels' examples, from Vassar College's calculator
        ((101, 121, 59, 33), 0.000004),
        ((101, 70, 59, 33), 0.378688),
        ((101, 80, 59, 33), 0.089452),
        ((101, 30, 60, 33), 0.00206),
        ((101, 10, 30, 33), 0.002221),
        ((101, 10, 10, 33), 1.0),
    ],
)
def test_mcnemar_matches_the_examples_of_statsmodels(
    counts: tuple[int, int, int, int], p: float
) -> None:
    assert mcnemar_test(*predictions(*counts))[2] == pytest.approx(p, abs=1e-6)
