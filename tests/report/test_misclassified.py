"""Tests of the figures of errors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from selfie_pipeline.evaluation.scores import build_predictions_table
from selfie_pipeline.report.misclassified import (
    draw_confusion_matrix,
    draw_sample_errors,
    select_worst_errors,
)

CLASSES = ["cat", "dog", "owl"]


def predictions(pairs: list[tuple[int, int]], classes: int = 3) -> pd.DataFrame:
    """Tabulate pairs of a true and a predicted class, with increasing probability."""
    true, predicted = np.array(pairs).T
    logits = np.zeros((len(pairs), classes))
    logits[np.arange(len(pairs)), predicted] = 1 + np.arange(len(pairs))
    return build_predictions_table(np.arange(len(pairs)) + 100, true, logits)


PREDICTIONS = predictions([(0, 0), (0, 1), (0, 1), (1, 1), (2, 0), (2, 2)])


def entries(figure) -> dict[tuple[float, float], tuple[str, str]]:
    """Return the number and the colour of each matrix entry, by row and column."""
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
    figure = draw_confusion_matrix(PREDICTIONS, CLASSES)
    found = entries(figure)
    assert {place: number for place, (number, _) in found.items()} == {
        (0, 0): "1",
        (0, 1): "2",  # two cats are predicted as dogs
        (1, 1): "1",
        (2, 0): "1",
        (2, 2): "1",
    }
    correct, wrong = found[0, 0][1], found[0, 1][1]
    assert correct != wrong
    assert {found[place][1] for place in ((1, 1), (2, 2))} == {correct}
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == CLASSES
    assert [tick.get_text() for tick in axes.get_xticklabels()] == CLASSES
    bold = {text.get_position() for text in axes.texts if text.get_weight() == "bold"}
    assert bold == {(0.5, 0.5), (1.5, 1.5), (2.5, 2.5)}  # not by colour alone
    assert figure.get_label().startswith(
        "Confusion of 3 classes: 3 of 6 correct. cat is predicted as dog 2 times"
    )


@pytest.mark.parametrize("classes", [2, 5, 12])
def test_the_title_and_long_names_fit_the_matrix(classes: int) -> None:
    names = [f"{'a name of a class, number':<30}{n}" for n in range(classes)]
    figure = draw_confusion_matrix(predictions([(0, 0), (1, 0)], classes), names)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (axes,) = figure.axes
    assert len({tick.get_text() for tick in axes.get_yticklabels()}) == classes
    texts = figure.texts + axes.get_xticklabels() + axes.get_yticklabels()
    for text in [*texts, axes.xaxis.label, axes.yaxis.label]:
        box = text.get_window_extent(renderer)
        assert (np.array([box.x0, box.y0]) >= 0).all(), text
        assert (np.array([box.x1, box.y1]) <= figure.bbox.max).all(), text
    assert figure.texts[0].get_text() == "Test images (bold: correct)"


def test_up_to_thirty_classes_give_a_matrix_and_more_give_a_table() -> None:
    thirty = draw_confusion_matrix(PREDICTIONS, [f"class {n}" for n in range(30)])
    assert len(entries(thirty)) == 5
    figure = draw_confusion_matrix(PREDICTIONS, [*CLASSES, *(f"class {n}" for n in range(3, 31))])
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    assert texts == [
        *("True class", "Predicted class", "Test images"),
        *("cat", "dog", "2 of 3"),
        *("owl", "cat", "1 of 2"),
    ]
    assert figure.get_size_inches()[0] < 10


def test_a_table_of_many_classes_needs_no_matrix() -> None:
    """It would take 80 GB."""
    classes = [f"class {n}" for n in range(100_000)]

    figure = draw_confusion_matrix(PREDICTIONS, classes)

    assert figure.get_label().startswith("Confusion of 100,000 classes: 3 of 6 correct. class 0 is")


def test_no_confusion_and_a_class_that_does_not_occur() -> None:
    for classes in (CLASSES, [f"class {n}" for n in range(31)]):
        figure = draw_confusion_matrix(predictions([(0, 0), (1, 1)]), classes)
        figure.draw_without_rendering()
        assert figure.get_label().endswith("2 of 2 correct.")


def test_errors_are_ordered_by_descending_probability() -> None:
    assert select_worst_errors(PREDICTIONS, 12)["sample"].tolist() == [104, 102, 101]
    assert select_worst_errors(PREDICTIONS, 2)["sample"].tolist() == [104, 102]
    equal = PREDICTIONS.assign(probability=0.5)
    assert select_worst_errors(equal[::-1], 12)["sample"].tolist() == [101, 102, 104]


def test_sample_errors_show_the_image_and_both_classes() -> None:
    wrong = select_worst_errors(PREDICTIONS, 12)
    images = np.stack([np.full((4, 4, 3), sample, np.uint8) for sample in wrong["sample"]])
    figure = draw_sample_errors(images, wrong, CLASSES)
    (axes,) = figure.axes
    assert [int(image.get_array()[0, 0, 0]) for image in axes.images] == [104, 102, 101]
    captions = [text.get_text().splitlines() for text in axes.texts]
    assert captions[0][:2] == ["true: owl", "✗ predicted: cat"]
    assert captions[2] == [
        "true: cat",
        "✗ predicted: dog",
        f"probability: {100 * np.e**2 / (np.e**2 + 2):.0f} %",
    ]
    assert "owl, predicted as cat" in figure.get_label()


def test_long_names_are_shortened_to_fit_the_panel() -> None:
    wrong = select_worst_errors(PREDICTIONS, 1)
    figure = draw_sample_errors(
        np.zeros((1, 4, 4, 3), np.uint8), wrong, ["c" * 98 + "1", "dog", "o" * 98 + "2"]
    )
    (caption,) = figure.axes[0].texts
    lines = caption.get_text().splitlines()
    assert [len(line) for line in lines[:2]] == [26, 27]
    assert [line[-1] for line in lines[:2]] == ["2", "1"]  # names often differ at their ends
    assert caption.get_window_extent().x1 <= figure.bbox.width / 4
    assert "o" * 98 + "2" in figure.get_label()


def test_long_names_of_one_pattern_differ_in_all_figures() -> None:
    names = [f"species number {n:03} (Linnaeus, 1758)" for n in range(31)]
    wrong = select_worst_errors(PREDICTIONS, 3)
    errors = draw_sample_errors(np.zeros((3, 4, 4, 3), np.uint8), wrong, names)
    captions = [text.get_text().splitlines()[:2] for text in errors.axes[0].texts]
    assert captions[0] == ["true: …002…", "✗ predicted: …000…"]
    assert captions[1] == ["true: …000…", "✗ predicted: …001…"]

    table = draw_confusion_matrix(PREDICTIONS, names)
    assert [text.get_text() for text in table.axes[0].texts[3:5]] == ["…000…", "…001…"]
    matrix = draw_confusion_matrix(PREDICTIONS, names[:3])
    shown = [tick.get_text() for tick in matrix.axes[0].get_yticklabels()]
    assert shown == ["…000…", "…001…", "…002…"]


def test_no_errors_show_a_placeholder() -> None:
    figure = draw_sample_errors(np.zeros((0, 4, 4, 3), np.uint8), PREDICTIONS[:0], CLASSES)
    assert figure.axes[0].texts[0].get_text() == "no image is misclassified"
    figure.draw_without_rendering()
