"""Tests of the scores."""

from __future__ import annotations

import math

import numpy as np
import pytest

from selfie_pipeline.evaluation import scores

LABELS = np.array([0, 2, 1])
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.5, 0.1, 0.4], [0.05, 0.9, 0.05]])


def test_loss_by_hand() -> None:
    expected = -(math.log(0.7) + math.log(0.4) + math.log(0.9)) / 3
    assert scores.mean_loss(LABELS, np.log(PROBABILITIES)) == pytest.approx(expected)
    # adding a constant to a sample's logits does not change the loss
    assert scores.mean_loss(LABELS, np.log(PROBABILITIES) + 7) == pytest.approx(expected)


def test_loss_of_uniform_predictions_is_ln_k() -> None:
    assert scores.mean_loss(LABELS, np.zeros((3, 10))) == pytest.approx(math.log(10))


def test_loss_of_large_float32_logits_is_finite() -> None:
    logits = np.array([[1e4, -1e4]], dtype=np.float32)
    assert scores.mean_loss(np.array([1]), logits) == pytest.approx(2e4)


def test_predictions_table() -> None:
    table = scores.build_predictions_table(np.array([7, 3, 5]), LABELS, np.log(PROBABILITIES) + 3)
    assert table.columns.tolist() == [
        "sample",
        "label",
        "predicted",
        "probability",
        "runner_up",
        "correct",
    ]
    assert table["sample"].tolist() == [7, 3, 5]
    assert table["predicted"].tolist() == [0, 0, 1]
    assert table["probability"].tolist() == pytest.approx([0.7, 0.5, 0.9])
    assert table["runner_up"].tolist() == [1, 2, 0]
    assert table["correct"].tolist() == [True, False, True]


def test_two_classes_are_enough_for_a_runner_up() -> None:
    table = scores.build_predictions_table(np.array([4]), np.array([1]), np.array([[0.0, 1.0]]))
    assert table[["predicted", "runner_up", "correct"]].iloc[0].tolist() == [1, 0, True]


def test_correct_predictions_packed_by_hand() -> None:
    # correct, wrong, correct, and five padding bits
    assert scores.pack_correct(np.array([True, False, True])) == f"{0b10100000:02x}"
    assert scores.unpack_correct("a0", 3).tolist() == [True, False, True]


def test_unpacking_reverses_packing() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 7, 8, 9, 540):
        correct = rng.random(count) < 0.5
        assert (scores.unpack_correct(scores.pack_correct(correct), count) == correct).all()
