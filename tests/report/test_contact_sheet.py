"""Tests of the contact sheet."""

import numpy as np
import pytest

from selfie_pipeline.evaluation.predictions import find_top_two, name_predictions
from selfie_pipeline.report.contact_sheet import draw_predictions

CLASSES = ["a cat of a very long name", "dog"]


def predictions(count: int):
    logits = np.log([[0.6, 0.4]] * count).reshape(-1, 2)
    files = [f"{number}.png" for number in range(count)]
    return name_predictions(files, find_top_two(logits), CLASSES)


def test_each_image_is_captioned_with_its_file_and_two_classes() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)

    figure = draw_predictions(images, predictions(8), title="Some images")

    (axes,) = figure.axes
    np.testing.assert_array_equal([image.get_array() for image in axes.images], images)
    assert [text.get_text().splitlines() for text in axes.texts] == [
        [f"{number}.png", "a cat of a…long name: 60 %", "dog: 40 %"] for number in range(8)
    ]
    assert "0.png: a cat of a very long name 60 % or dog 40 %. " in figure.get_label()
    assert figure.get_label().endswith("And 3 more.")


def test_long_names_of_classes_keep_what_differs() -> None:
    table = predictions(1).assign(
        **{"class": "species number 000 (Linnaeus)", "runner_up": "species number 010 (Linnaeus)"}
    )

    figure = draw_predictions(np.zeros((1, 4, 4, 3), dtype=np.uint8), table, title="Some images")

    caption = figure.axes[0].texts[0].get_text()
    assert caption.splitlines() == ["0.png", "…000…: 60 %", "…010…: 40 %"]


def test_control_characters_in_names_of_files_are_escaped() -> None:
    table = predictions(1).assign(file="a\x1b[2J\n.png")

    figure = draw_predictions(np.zeros((1, 4, 4, 3), dtype=np.uint8), table, title="Some images")

    assert figure.axes[0].texts[0].get_text().splitlines()[0] == r"a\x1b[2J\n.png"
    assert r"a\x1b[2J\n.png: " in figure.get_label()


def test_no_images_show_a_placeholder() -> None:
    figure = draw_predictions(
        np.empty((0, 4, 4, 3), dtype=np.uint8), predictions(0), title="Some images"
    )

    assert figure.axes[0].texts[0].get_text() == "no images"
    assert figure.get_label().endswith("There are none.")


@pytest.mark.parametrize(("images", "captions"), [(2, 1), (6, 7)])
def test_images_without_predictions_and_the_reverse_raise(images: int, captions: int) -> None:
    pixels = np.zeros((images, 4, 4, 3), dtype=np.uint8)

    with pytest.raises(ValueError, match="zip"):
        draw_predictions(pixels, predictions(captions), title="Some images")
