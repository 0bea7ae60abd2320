"""Tests of named predictions."""

import numpy as np
import pytest

from selfie_pipeline.evaluation.predictions import (
    find_top_two,
    name_predictions,
    select_least_certain,
)
from selfie_pipeline.evaluation.scores import build_predictions_table

CLASSES = ["cat", "dog", "NA"]
LOGITS = np.log([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.25, 0.5, 0.25]])


def test_predictions_by_hand() -> None:
    table = name_predictions(["a.png", "b/c.png", "d"], find_top_two(LOGITS), CLASSES)

    assert table["file"].tolist() == ["a.png", "b/c.png", "d"]
    assert table["class"].tolist() == ["cat", "NA", "dog"]
    assert table["runner_up"].tolist() == ["dog", "cat", "cat"]  # the first of equal logits
    assert table["probability"].tolist() == pytest.approx([0.7, 0.4, 0.5])
    assert table["runner_up_probability"].tolist() == pytest.approx([0.2, 0.3, 0.25])


def test_two_classes_of_each_image_are_kept() -> None:
    top = find_top_two(LOGITS)

    assert top.labels.shape == top.probabilities.shape == (len(LOGITS), 2)


def test_predictions_match_the_predictions_table() -> None:
    logits = np.random.default_rng(0).normal(size=(200, 7)).round(1)  # some are equal
    classes = [str(label) for label in range(7)]

    named = name_predictions([""] * 200, find_top_two(logits), classes)
    tested = build_predictions_table(np.arange(200), np.zeros(200, dtype=np.int64), logits)

    assert named["class"].astype(int).tolist() == tested["predicted"].tolist()
    assert named["runner_up"].astype(int).tolist() == tested["runner_up"].tolist()
    np.testing.assert_allclose(named["probability"], tested["probability"])


def test_no_images_give_an_empty_table() -> None:
    table = name_predictions([], find_top_two(np.empty((0, 3))), CLASSES)

    assert table.empty
    assert next(iter(table)) == "file"
    assert select_least_certain(table, 3).empty


def test_the_least_certain_predictions_come_first() -> None:
    table = name_predictions(["d", "b", "c", "a"], find_top_two(LOGITS[[0, 1, 2, 1]]), CLASSES)

    assert select_least_certain(table, 3)["file"].tolist() == ["a", "b", "c"]
