"""Tests of the choice of images most worth labeling."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from selfie_pipeline.evaluation.suggestions import select_diverse


def draw_groups(groups: int, each: int) -> np.ndarray:
    """Return vectors in groups around directions of their own: (groups · each, groups)."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.05, (groups * each, groups))
    return (np.repeat(np.eye(groups), each, axis=0) + noise).astype(np.float32)


def test_one_of_each_group_is_chosen():
    vectors, margins = draw_groups(6, 20), np.linspace(0, 0.5, 120)

    chosen = select_diverse(vectors, margins, 6, seed=0)

    assert sorted(chosen // 20) == [0, 1, 2, 3, 4, 5]
    assert (np.diff(margins[chosen]) > 0).all()


def test_margins_alone_would_choose_from_one_group():
    vectors, margins = draw_groups(2, 20), np.linspace(0, 0.5, 40)

    assert set(select_diverse(vectors, margins, 4, seed=0) // 20) == {0, 1}


def test_a_centre_is_drawn_to_the_uncertain_ones():
    vectors = np.float32([[1, 0], [0.9, 0.1], [0.8, 0.2], [0, 1]])

    for unsure in (0, 2):
        margins = np.full(4, 0.999)
        margins[unsure] = 0
        assert set(select_diverse(vectors, margins, 2, seed=0)) == {unsure, 3}


def test_lengths_of_vectors_do_not_count():
    vectors, margins = draw_groups(6, 20), np.linspace(0, 0.5, 120)
    lengths = np.random.default_rng(1).uniform(0.5, 2, (120, 1)).astype(np.float32)

    chosen = select_diverse(vectors * lengths, margins, 6, seed=0)

    np.testing.assert_array_equal(chosen, select_diverse(vectors, margins, 6, seed=0))


@pytest.mark.parametrize("count", [3, 4, 9])
def test_all_are_chosen_by_margin_if_there_are_not_more(count):
    margins = np.array([0.4, 0.1, 0.3])

    assert select_diverse(draw_groups(3, 1), margins, count, seed=0).tolist() == [1, 2, 0]


def test_equal_vectors_are_completed_by_margin():
    margins = np.array([0.4, 0.1, 0.3, 0.2, 1.0])

    assert select_diverse(np.ones((5, 3), dtype=np.float32), margins, 3, seed=0).tolist()[-1] != 4
    assert len(set(select_diverse(np.ones((5, 3), dtype=np.float32), margins, 3, seed=0))) == 3


def test_a_classifier_that_is_certain_of_all_leaves_diversity():
    assert set(select_diverse(draw_groups(3, 9), np.ones(27), 3, seed=0) // 9) == {0, 1, 2}


def test_the_choice_follows_from_the_seed_whatever_the_threads():
    vectors = np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float32)
    margins = np.random.default_rng(1).random(2000)
    first = select_diverse(vectors, margins, 50, seed=3)

    with threadpool_limits(limits=2):
        np.testing.assert_array_equal(select_diverse(vectors, margins, 50, seed=3), first)
    assert not np.array_equal(select_diverse(vectors, margins, 50, seed=4), first)
