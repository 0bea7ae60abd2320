"""Figure of the pretraining puzzle and the network's solution; its label is its alt text."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from selfie_pipeline.report.style import LIGHT, styled

CORRECT, WRONG = "✓", "✗"

_MIN_PANEL_INCHES = 2.3
_MIN_SLOT_INCHES = 0.8
"""Minimum width of a patch with its caption."""
_PATCH_SIDE = 0.62
"""Side of a patch in its slot, whose side is 1."""
_NO_PUZZLES = "The encoder's patch grid does not fit these images."


@dataclass(frozen=True)
class _Puzzle:
    """The puzzle of one image; patches are numbered by their index in `targets`, from 0.

    Attributes:
        image: (H, H, 3) uint8.
        grid_size: Number of patches along one side.
        targets: (T,) positions of the target patches, counted row by row.
        chosen: (T,) number of the patch chosen for each target position.
        probability: (T,) predicted probability of each choice.
        order: (T,) numbers of the patches in the order in which the candidates are shown.
    """

    image: NDArray[np.uint8]
    grid_size: int
    targets: NDArray[np.integer]
    chosen: NDArray[np.integer]
    probability: NDArray[np.floating]
    order: NDArray[np.integer]

    def area(self, number: int) -> tuple[slice, slice]:
        """Return the rows and the columns of the image that a target patch covers."""
        side = len(self.image) // self.grid_size
        row, column = divmod(int(self.targets[number]), self.grid_size)
        return slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)

    def frame(self, number: int, **style: Any) -> Rectangle:
        """Return a rectangle of the place of a target patch in the image."""
        rows, columns = self.area(number)
        side = rows.stop - rows.start
        return Rectangle((columns.start, rows.start), side, side, **style)

    def letter(self, number: int) -> str:
        """Return the name of a candidate, by its display order: A to Z, A2 to Z2, ..."""
        place = int(np.flatnonzero(self.order == number)[0])
        cycle, index = divmod(place, len(string.ascii_uppercase))
        return string.ascii_uppercase[index] + (str(cycle + 1) if cycle else "")

    def is_correct(self, number: int) -> bool:
        """Return whether the patch chosen for a target position is the original one."""
        return bool(self.chosen[number] == number)

    def colour(self, number: int) -> str:
        """Return the colour that marks a choice as correct or wrong."""
        return LIGHT["correct" if self.is_correct(number) else "wrong"]


@styled
def draw_puzzles(
    images: NDArray[np.uint8],
    grid_size: int,
    targets: NDArray[np.integer],
    probabilities: NDArray[np.floating],
) -> Figure:
    """Draw the puzzles of a few images and the network's solutions.

    Args:
        images: (K, H, H, 3) uint8, RGB; K may be 0.
        grid_size: Number of patches along one side; it divides H, unless K is 0.
        targets: (K, T) integers: positions of the target patches, counted row by row from the top
            left, in the order of the queries. All other patches were the context.
        probabilities: (K, T, T) floats, each row a distribution: [k, i, j] is the probability
            that the patch at ``targets[k, j]`` belongs to the position ``targets[k, i]``.

    Returns:
        One row per image: the image with its target patches masked and numbered; the candidates,
        lettered, in an order of their own, as the network sees none; the choice for each number
        with its probability, marked correct or wrong; the image completed with the choices.
    """
    if not len(images):
        figure = Figure(figsize=(6, 1))
        figure.text(0.5, 0.5, _NO_PUZZLES, ha="center", va="center")
        figure.set_label(_NO_PUZZLES)
        return figure
    rng = np.random.default_rng(0)
    puzzles = [
        _Puzzle(image, grid_size, t, p.argmax(axis=1), p.max(axis=1), rng.permutation(len(t)))
        for image, t, p in zip(images, targets, probabilities, strict=True)
    ]
    side = max(_MIN_PANEL_INCHES, _MIN_SLOT_INCHES * _count_columns(targets.shape[1]))
    figure = Figure(figsize=(4 * side, side * len(puzzles) + 0.5))
    panels = figure.subplots(len(puzzles), 4, squeeze=False)
    for puzzle, (masked, candidates, choices, completed) in zip(puzzles, panels, strict=True):
        _draw_masked(masked, puzzle)
        _draw_candidates(candidates, puzzle)
        _draw_choices(choices, puzzle)
        _draw_completed(completed, puzzle)
    titles = ("Masked image", "Candidates", "Choices", "Completed image")
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title)
    figure.set_label(_describe(puzzles))
    return figure


def _draw_masked(axes: Axes, puzzle: _Puzzle) -> None:
    _draw_image(axes, puzzle.image)
    for number in range(len(puzzle.targets)):
        mask = puzzle.frame(number, facecolor=LIGHT["mask"], edgecolor=LIGHT["paper"])
        axes.add_patch(mask)
        x, y = mask.get_center()
        axes.text(x, y, str(number + 1), ha="center", va="center", weight="bold")


def _draw_candidates(axes: Axes, puzzle: _Puzzle) -> None:
    captions = [(puzzle.letter(number),) for number in puzzle.order]
    _draw_patches(axes, puzzle, puzzle.order, captions, [LIGHT["ink"]] * len(captions))


def _draw_choices(axes: Axes, puzzle: _Puzzle) -> None:
    captions, colours = [], []
    for number, chosen in enumerate(puzzle.chosen):
        mark = CORRECT if puzzle.is_correct(number) else WRONG
        answer = f"{number + 1}: {puzzle.letter(chosen)} {mark}"
        captions.append((answer, f"{100 * puzzle.probability[number]:.0f} %"))
        colours.append(puzzle.colour(number))
    _draw_patches(axes, puzzle, puzzle.chosen, captions, colours)


def _draw_completed(axes: Axes, puzzle: _Puzzle) -> None:
    """Draw the image with the chosen patches; a wrong one has a dashed frame and a cross."""
    completed = puzzle.image.copy()
    for number, chosen in enumerate(puzzle.chosen):
        completed[puzzle.area(number)] = puzzle.image[puzzle.area(chosen)]
        correct, colour = puzzle.is_correct(number), puzzle.colour(number)
        line = "-" if correct else (0, (2, 1))
        frame = puzzle.frame(number, fill=False, edgecolor=colour, linestyle=line, linewidth=1.8)
        axes.add_patch(frame)
        if not correct:
            box = {"boxstyle": "circle,pad=0.15", "facecolor": LIGHT["paper"], "edgecolor": "none"}
            x, y = frame.get_center()
            axes.text(x, y, WRONG, ha="center", va="center", size=9, color=colour, bbox=box)
    _draw_image(axes, completed)


def _count_columns(count: int) -> int:
    """Return the number of columns of a roughly square arrangement of patches."""
    return math.ceil(math.sqrt(count))


def _draw_image(axes: Axes, image: NDArray[np.uint8]) -> None:
    side = len(image)
    axes.imshow(image, extent=(0, side, side, 0))
    axes.set_axis_off()


def _draw_patches(
    axes: Axes,
    puzzle: _Puzzle,
    numbers: NDArray[np.integer],
    captions: Sequence[tuple[str, ...]],
    colours: Sequence[str],
) -> None:
    """Draw patches, each in a slot of side 1 with a caption below it."""
    columns = _count_columns(len(numbers))
    separator = " " if columns <= 2 else "\n"  # noqa: PLR2004  # more columns are too narrow
    for slot, (number, parts, colour) in enumerate(zip(numbers, captions, colours, strict=True)):
        row, column = divmod(slot, columns)
        left = column + (1 - _PATCH_SIDE) / 2
        extent = (left, left + _PATCH_SIDE, row + _PATCH_SIDE, row)
        axes.imshow(puzzle.image[puzzle.area(number)], extent=extent)
        frame = Rectangle((left, row), _PATCH_SIDE, _PATCH_SIDE, fill=False, linewidth=0.6)
        frame.set_edgecolor(LIGHT["muted"])  # shows the edges of black patches on a dark page
        axes.add_patch(frame)
        style = {"ha": "center", "va": "top", "size": 8.5, "color": colour, "linespacing": 0.95}
        axes.text(column + 0.5, row + 0.66, separator.join(parts), style)
    axes.set(xlim=(0, columns), ylim=(columns, 0))  # imshow sets them to the last patch
    axes.set_axis_off()


def _describe(puzzles: list[_Puzzle]) -> str:
    lines = []
    for image, puzzle in enumerate(puzzles, 1):
        count = len(puzzle.targets)
        wrong = [str(number + 1) for number in range(count) if not puzzle.is_correct(number)]
        listed = f"; wrong: {', '.join(wrong)}" if wrong else ""
        lines.append(f"Image {image}: {count - len(wrong)} of {count} correct{listed}.")
    return "Puzzles and the network's choices. " + " ".join(lines)
