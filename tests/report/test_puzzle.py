"""Tests of the figure of the puzzle."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from selfie_pipeline.report.puzzle import CORRECT, WRONG, draw_puzzles
from selfie_pipeline.report.style import LIGHT

TARGETS = np.array([[1, 4, 11, 14], [15, 0, 5, 9]])
# First image: the choices for 1 and 3 are correct, those for 2 and 4 are both the patch of 1.
PROBABILITIES = np.array(
    [
        [[0.7, 0.1, 0.1, 0.1], [0.6, 0.2, 0.1, 0.1], [0.0, 0.0, 1.0, 0.0], [0.4, 0.3, 0.2, 0.1]],
        np.full((4, 4), 0.05) + np.eye(4) * 0.8,
    ]
)


@pytest.fixture
def images() -> np.ndarray:
    """Return two images in which each patch has a single unique colour: its position."""
    positions = np.arange(16, dtype=np.uint8).reshape(4, 4)
    image = np.kron(positions, np.ones((8, 8), dtype=np.uint8))
    return np.stack([image, image + 100])[..., None].repeat(3, axis=3)


def texts(axes) -> list[str]:
    """Return the texts of a panel, in drawing order."""
    return [text.get_text() for text in axes.texts]


def patch_values(axes) -> list[int]:
    """Return the colour of each drawn patch."""
    return [int(image.get_array()[0, 0, 0]) for image in axes.images]


def test_marks_match_the_probabilities(images) -> None:
    figure = draw_puzzles(images, 4, TARGETS, PROBABILITIES)
    _, candidates, choices, _, _, _, second, _ = figure.axes
    letter = dict(zip(patch_values(candidates), texts(candidates), strict=True))
    assert sorted(letter) == [1, 4, 11, 14]
    assert sorted(letter.values()) == ["A", "B", "C", "D"]
    assert texts(choices) == [
        f"1: {letter[1]} {CORRECT} 70 %",
        f"2: {letter[1]} {WRONG} 60 %",
        f"3: {letter[11]} {CORRECT} 100 %",
        f"4: {letter[1]} {WRONG} 40 %",
    ]
    assert patch_values(choices) == [1, 1, 11, 1]
    assert all(CORRECT in text for text in texts(second))


def test_masked_patches_are_covered_and_numbered_in_query_order(images) -> None:
    masked = draw_puzzles(images, 4, TARGETS, PROBABILITIES).axes[0]
    assert texts(masked) == ["1", "2", "3", "4"]
    covers = [patch.get_xy() for patch in masked.patches if isinstance(patch, Rectangle)]
    assert covers == [(8, 0), (0, 8), (24, 16), (16, 24)]
    assert masked.texts[0].get_position() == (12, 4)


def test_completed_image_contains_the_choices(images) -> None:
    figure = draw_puzzles(images, 4, TARGETS, PROBABILITIES)
    first, second = (figure.axes[place].images[0].get_array()[..., 0] for place in (3, 7))
    patches = first[::8, ::8].ravel()
    assert patches[TARGETS[0]].tolist() == [1, 1, 11, 1]
    untouched = np.setdiff1d(np.arange(16), TARGETS[0])
    assert patches[untouched].tolist() == untouched.tolist()
    assert (second == images[1, ..., 0]).all()  # all correct: the original image
    assert texts(figure.axes[3]) == [WRONG, WRONG]
    styles = [patch.get_linestyle() for patch in figure.axes[3].patches]
    assert [style == "-" for style in styles] == [True, False, True, False]


def test_panels_are_titled_and_each_image_has_a_row(images) -> None:
    figure = draw_puzzles(images, 4, TARGETS, PROBABILITIES)
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles == ["Masked image", "Candidates", "Choices", "Completed image", *[""] * 4]
    width, height = figure.get_size_inches()
    assert height == pytest.approx(2 * width / 4 + 0.5)  # square panels below their titles
    assert not any(axes.axison for axes in figure.axes)


def test_patches_are_framed_in_slots_with_captions_below(images) -> None:
    _, candidates, choices, completed = draw_puzzles(images, 4, TARGETS, PROBABILITIES).axes[:4]
    for axes in (candidates, choices):
        assert (axes.get_xlim(), axes.get_ylim()) == ((0, 2), (2, 0))
        slots = [(0, 0), (1, 0), (0, 1), (1, 1)]
        for (column, row), image, frame, text in zip(
            slots, axes.images, axes.patches, axes.texts, strict=True
        ):
            left, right, bottom, top = image.get_extent()
            assert (left + right) / 2 == pytest.approx(column + 0.5)
            assert (top, right - left) == (row, pytest.approx(bottom - top))
            assert frame.get_xy() == (left, top)
            assert (frame.get_width(), frame.get_height()) == pytest.approx(
                (right - left, bottom - top)
            )
            x, y = text.get_position()
            assert x == column + 0.5
            assert bottom < y < row + 1
            assert text.get_va() == "top"
    frames = [patch.get_xy() for patch in completed.patches]
    assert frames == [(8, 0), (0, 8), (24, 16), (16, 24)]
    assert [text.get_position() for text in completed.texts] == [(4, 12), (20, 28)]


def test_marks_of_right_and_wrong_choices_differ_in_colour(images) -> None:
    axes = draw_puzzles(images, 4, TARGETS, PROBABILITIES).axes
    right, wrong = LIGHT["correct"], LIGHT["wrong"]
    assert [text.get_color() for text in axes[2].texts] == [right, wrong, right, wrong]
    frames = [to_hex(patch.get_edgecolor()) for patch in axes[3].patches]
    assert frames == [right, wrong, right, wrong]
    assert not any(patch.get_fill() for patch in axes[3].patches)


def test_candidates_are_in_an_order_of_their_own(images) -> None:
    many = 8
    figure = draw_puzzles(
        np.repeat(images[:1], many, axis=0),
        4,
        np.repeat(TARGETS[:1], many, axis=0),
        np.repeat(PROBABILITIES[:1], many, axis=0),
    )
    orders = [patch_values(axes) for axes in figure.axes[1::4]]
    assert len({tuple(order) for order in orders}) > 1
    assert all(sorted(order) == [1, 4, 11, 14] for order in orders)


def test_without_images_the_figure_says_why(images) -> None:
    figure = draw_puzzles(images[:0], 7, TARGETS[:0], PROBABILITIES[:0])
    assert "does not fit these images" in figure.get_label()
    assert figure.axes == []


def test_alt_text_lists_wrong_choices(images) -> None:
    label = draw_puzzles(images, 4, TARGETS, PROBABILITIES).get_label()
    assert "Image 1: 2 of 4 correct; wrong: 2, 4." in label
    assert "Image 2: 4 of 4 correct." in label


def test_more_targets_than_letters() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1, 4 * 6, 4 * 6, 3), dtype=np.uint8)
    targets = rng.permutation(36)[None, :28]
    figure = draw_puzzles(images, 6, targets, np.eye(28)[None])
    assert sorted(texts(figure.axes[1])) == sorted([*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "A2", "B2"])
    assert (figure.axes[3].images[0].get_array() == images[0]).all()
