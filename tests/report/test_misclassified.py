from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from selfie_pipeline.evaluation.scores import predictions_table
from selfie_pipeline.report.misclassified import confusion_matrix, sample_errors, worst_errors

CLASSES = ["cat", "dog", "owl"]


def predictions(pairs: list[tuple[int, int]], classes: int = 3) -> pd.DataFrame:
    """Of each true class and said class; the later, the surer."""
    true, said = np.array(pairs).T
    logits = np.zeros((len(pairs), classes))
    logits[np.arange(len(pairs)), said] = 1 + np.arange(len(pairs))
    return predictions_table(np.arange(len(pairs)) + 100, true, logits)


SAID = predictions([(0, 0), (0, 1), (0, 1), (1, 1), (2, 0), (2, 2)])


def cells(figure) -> dict[tuple[float, float], tuple[str, str]]:
    """Number and colour of each cell, by row and column."""
    (axes,) = figure.axes
    numbers = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    return {
        (patch.get_y(), patch.get_x()): (
            numbers[patch.get_y() + 0.5, patch.get_x() + 0.5],
            patch.get_facecolor()[:3],
        )
        for patch in axes.patches
    }


def test_confusion_by_hand() -> None:
    figure = confusion_matrix(SAID, CLASSES)
    found = cells(figure)
    assert {place: number for place, (number, _) in found.items()} == {
        (0, 0): "1",
        (0, 1): "2",  # two cats are said to be dogs
        (1, 1): "1",
        (2, 0): "1",
        (2, 2): "1",
    }
    right, wrong = found[0, 0][1], found[0, 1][1]
    assert right != wrong
    assert {found[place][1] for place in ((1, 1), (2, 2))} == {right}
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == CLASSES
    assert [tick.get_text() for tick in axes.get_xticklabels()] == CLASSES
    bold = {text.get_position() for text in axes.texts if text.get_weight() == "bold"}
    assert bold == {(0.5, 0.5), (1.5, 1.5), (2.5, 2.5)}  # not by colour alone
    assert figure.get_label().startswith(
        "Confusion of 3 classes: 3 of 6 right. cat is taken for dog"
    )


def test_thirty_classes_are_a_matrix_more_are_a_table() -> None:
    thirty = confusion_matrix(SAID, [f"class {n}" for n in range(30)])
    assert len(cells(thirty)) == 5
    figure = confusion_matrix(SAID, [*CLASSES, *(f"class {n}" for n in range(3, 31))])
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    assert texts == [
        *("True class", "Taken for", "Test images"),
        *("cat", "dog", "2 of 3"),
        *("owl", "cat", "1 of 2"),
    ]
    assert figure.get_size_inches()[0] < 10


def test_no_confusion_and_a_class_that_never_occurs() -> None:
    for classes in (CLASSES, [f"class {n}" for n in range(31)]):
        figure = confusion_matrix(predictions([(0, 0), (1, 1)]), classes)
        figure.draw_without_rendering()
        assert figure.get_label().endswith("2 of 2 right.")


@pytest.mark.parametrize("found", [SAID, SAID[:0]])
def test_refuses_what_is_no_class(found: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="predictions of 2 classes"):
        confusion_matrix(found, CLASSES[:2])


def test_the_surest_error_comes_first() -> None:
    assert worst_errors(SAID, 12)["sample"].tolist() == [104, 102, 101]
    assert worst_errors(SAID, 2)["sample"].tolist() == [104, 102]
    equal = SAID.assign(probability=0.5)
    assert worst_errors(equal[::-1], 12)["sample"].tolist() == [101, 102, 104]


def test_sample_errors_show_image_truth_and_answer() -> None:
    wrong = worst_errors(SAID, 12)
    images = np.stack([np.full((4, 4, 3), sample, np.uint8) for sample in wrong["sample"]])
    figure = sample_errors(images, wrong, CLASSES)
    shown = [axes for axes in figure.axes if axes.images]
    assert [int(axes.images[0].get_array()[0, 0, 0]) for axes in shown] == [104, 102, 101]
    titles = [axes.get_title("left").splitlines() for axes in shown]
    assert titles[0][:2] == ["is: owl", "✗ said: cat"]
    assert titles[2] == ["is: cat", "✗ said: dog", f"{100 * np.e**2 / (np.e**2 + 2):.0f} % sure"]
    assert "owl, taken for cat" in figure.get_label()


def test_long_names_are_cut() -> None:
    wrong = worst_errors(SAID, 1)
    figure = sample_errors(np.zeros((1, 4, 4, 3), np.uint8), wrong, ["c" * 99, "dog", "o" * 99])
    assert max(map(len, figure.axes[0].get_title("left").splitlines())) <= 24
    assert "o" * 99 in figure.get_label()


def test_no_errors_is_said() -> None:
    figure = sample_errors(np.zeros((0, 4, 4, 3), np.uint8), SAID[:0], CLASSES)
    assert figure.axes[0].texts[0].get_text() == "no image is classified wrongly"
    figure.draw_without_rendering()


def test_each_prediction_needs_its_image() -> None:
    with pytest.raises(ValueError, match="2 images do not fit 3"):
        sample_errors(np.zeros((2, 4, 4, 3), np.uint8), worst_errors(SAID, 12), CLASSES)
