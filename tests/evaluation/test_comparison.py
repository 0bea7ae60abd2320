from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from selfie_pipeline.evaluation.comparison import spread


def test_hand_worked() -> None:
    found = spread([4, 6, 8, 6])
    assert (found.n, found.mean) == (4, 6)
    assert found.std == pytest.approx(math.sqrt(8 / 3))
    # t(0.975, 3) = 3.182 from a printed table; half of the std is its standard error
    assert found.high - found.mean == pytest.approx(3.182 * math.sqrt(8 / 3) / 2, abs=1e-3)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_interval_is_that_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 5))
    interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    found = spread(ours - theirs)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_one_value_has_no_spread() -> None:
    found = spread([85.8])
    assert (found.n, found.mean) == (1, 85.8)
    assert all(math.isnan(value) for value in (found.std, found.low, found.high))


def test_nothing_has_no_mean() -> None:
    found = spread([])
    assert found.n == 0
    assert math.isnan(found.mean)


@pytest.mark.parametrize("values", [[1.0, math.nan], [math.inf], [[1.0, 2.0]]])
def test_refuses_what_has_no_mean(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite numbers"):
        spread(values)
