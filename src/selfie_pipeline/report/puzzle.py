"""A picture of the puzzle: what was masked, what could be chosen, and what the network chose."""

from __future__ import annotations

import math
import string
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from selfie_pipeline.report.style import LIGHT, styled

RIGHT, WRONG = "✓", "✗"

_PANEL = 2.3
"""Least side of a panel, inches."""
_CELL = 0.8
"""Least width of a patch with its caption, inches."""


@dataclass(frozen=True)
class _Puzzle:
    """One image's puzzle; a patch's place in `targets` is its number, counted from 0.

    Attributes:
        image: (H, W, 3) uint8.
        grid: Rows and columns of patches.
        targets: (T,) positions of the masked patches, counted row by row.
        chosen: (T,) number of the patch that was chosen for each masked position.
        probability: (T,) that the network gave to its choice.
        order: (T,) numbers of the patches in the order in which the candidates are shown.
    """

    image: NDArray[np.uint8]
    grid: tuple[int, int]
    targets: NDArray[np.integer]
    chosen: NDArray[np.integer]
    probability: NDArray[np.floating]
    order: NDArray[np.integer]

    def corner(self, position: int) -> tuple[int, int]:
        """Top and left of a position in the image, pixels."""
        row, column = divmod(int(position), self.grid[1])
        height, width = self.patch_size
        return row * height, column * width

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.image.shape[0] // self.grid[0], self.image.shape[1] // self.grid[1]

    def patch(self, number: int) -> NDArray[np.uint8]:
        """Pixels of a masked patch."""
        top, left = self.corner(self.targets[number])
        height, width = self.patch_size
        return self.image[top : top + height, left : left + width]

    def letter(self, number: int) -> str:
        """Name of a candidate, by its place among those shown: A to Z, A2 to Z2, ..."""
        place = int(np.flatnonzero(self.order == number)[0])
        again, index = divmod(place, len(string.ascii_uppercase))
        return string.ascii_uppercase[index] + (str(again + 1) if again else "")

    def is_right(self, number: int) -> bool:
        """Whether the patch chosen for a masked position is the one that was there."""
        return bool(self.chosen[number] == number)


@styled
def puzzle_picture(
    images: NDArray[np.uint8],
    grid: tuple[int, int],
    targets: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    seed: int = 0,
) -> Figure:
    """Draw the puzzles of a few images and the network's solutions.

    Args:
        images: (K, H, W, 3) uint8, RGB.
        grid: Rows and columns of patches; they divide H and W.
        targets: (K, T) integers: positions of the masked patches, counted row by row from the top
            left, in the order of the queries. All other patches were the context.
        probabilities: (K, T, T) floats, each row a distribution: [k, i, j] is the probability
            that the patch at ``targets[k, j]`` belongs to the position ``targets[k, i]``.
        seed: Of the order in which the candidates are shown. The network sees no order.

    Returns:
        A row an image: the image with its masked patches greyed and numbered; the candidates,
        lettered; the choice for each number with its probability, marked right or wrong; the
        image filled in with the choices.

    Raises:
        ValueError: The shapes do not fit, a target lies outside the grid or is named twice, or a
            row of probabilities does not sum to 1.
    """
    _check(images, grid, targets, probabilities)
    rng = np.random.default_rng(seed)
    rows = zip(images, targets, probabilities, strict=True)
    puzzles = [
        _Puzzle(i, grid, t, p.argmax(axis=1), p.max(axis=1), rng.permutation(len(t)))
        for i, t, p in rows
    ]
    side = max(_PANEL, _CELL * _columns(targets.shape[1]))
    figure = Figure(figsize=(4 * side, side * len(puzzles) + 0.5))
    panels = figure.subplots(len(puzzles), 4, squeeze=False)
    for puzzle, (masked, candidates, choices, filled) in zip(puzzles, panels, strict=True):
        _draw_masked(masked, puzzle)
        _draw_candidates(candidates, puzzle)
        _draw_choices(choices, puzzle)
        _draw_filled(filled, puzzle)
    titles = ("Masked image", "Candidates", "Choices", "Filled in")
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title)
    figure.set_label(_describe(puzzles))
    return figure


def _draw_masked(axes: Axes, puzzle: _Puzzle) -> None:
    _show_image(axes, puzzle.image)
    height, width = puzzle.patch_size
    for number, position in enumerate(puzzle.targets):
        top, left = puzzle.corner(position)
        axes.add_patch(
            Rectangle((left, top), width, height, facecolor=LIGHT["mask"], edgecolor=LIGHT["paper"])
        )
        axes.text(
            left + width / 2, top + height / 2, str(number + 1), ha="center", va="center"
        ).set_fontweight("bold")


def _draw_candidates(axes: Axes, puzzle: _Puzzle) -> None:
    _lay_out(axes, len(puzzle.targets))
    for place, number in enumerate(puzzle.order):
        _show_patch(axes, puzzle, place, number)
        _caption(axes, puzzle, place, (puzzle.letter(number),), LIGHT["ink"])


def _draw_choices(axes: Axes, puzzle: _Puzzle) -> None:
    _lay_out(axes, len(puzzle.targets))
    for number, (chosen, probability) in enumerate(
        zip(puzzle.chosen, puzzle.probability, strict=True)
    ):
        right = puzzle.is_right(number)
        colour = LIGHT["right" if right else "wrong"]
        _show_patch(axes, puzzle, number, chosen)
        answer = f"{number + 1}: {puzzle.letter(chosen)} {RIGHT if right else WRONG}"
        _caption(axes, puzzle, number, (answer, f"{100 * probability:.0f} %"), colour)


def _draw_filled(axes: Axes, puzzle: _Puzzle) -> None:
    """The image with the chosen patches; a wrong one has a dashed frame and a cross."""
    height, width = puzzle.patch_size
    filled = puzzle.image.copy()
    for number, position in enumerate(puzzle.targets):
        top, left = puzzle.corner(position)
        filled[top : top + height, left : left + width] = puzzle.patch(puzzle.chosen[number])
    _show_image(axes, filled)
    for number, position in enumerate(puzzle.targets):
        top, left = puzzle.corner(position)
        right = puzzle.is_right(number)
        colour = LIGHT["right" if right else "wrong"]
        axes.add_patch(
            Rectangle(
                (left, top),
                width,
                height,
                fill=False,
                edgecolor=colour,
                linestyle="-" if right else (0, (2, 1)),
                linewidth=1.8,
            )
        )
        if not right:
            _mark_wrong(axes, left + width / 2, top + height / 2)


def _mark_wrong(axes: Axes, x: float, y: float) -> None:
    """A cross that can be read on any pixels."""
    box = {"boxstyle": "circle,pad=0.15", "facecolor": LIGHT["paper"], "edgecolor": "none"}
    axes.text(x, y, WRONG, ha="center", va="center", size=9, color=LIGHT["wrong"], bbox=box)


def _columns(count: int) -> int:
    """Patches side by side, when `count` of them are laid out in about a square."""
    return math.ceil(math.sqrt(count))


def _show_image(axes: Axes, image: NDArray[np.uint8]) -> None:
    height, width = image.shape[:2]
    axes.imshow(image, extent=(0, width, height, 0))
    axes.set_axis_off()


def _lay_out(axes: Axes, count: int) -> None:
    """An empty square for so many patches, each with a caption below, in cells of side 1."""
    side = _columns(count)
    axes.set_xlim(0, side)
    axes.set_ylim(side, 0)
    axes.set_aspect("equal")
    axes.set_axis_off()


def _show_patch(axes: Axes, puzzle: _Puzzle, place: int, number: int) -> None:
    """A patch in the upper part of its cell."""
    row, column = divmod(place, _columns(len(puzzle.targets)))
    height, width = (0.62 * side / max(puzzle.patch_size) for side in puzzle.patch_size)
    left = column + (1 - width) / 2
    axes.imshow(puzzle.patch(number), extent=(left, left + width, row + height, row))
    frame = Rectangle((left, row), width, height, fill=False, linewidth=0.6)
    frame.set_edgecolor(LIGHT["muted"])  # black patches end somewhere on a dark page, too
    axes.add_patch(frame)
    side = _columns(len(puzzle.targets))
    axes.set(xlim=(0, side), ylim=(side, 0))  # imshow has set them to the patch


def _caption(axes: Axes, puzzle: _Puzzle, place: int, parts: tuple[str, ...], colour: str) -> None:
    """What is said of a patch, below it; on two lines where the cells are narrow."""
    side = _columns(len(puzzle.targets))
    row, column = divmod(place, side)
    separator = " " if side <= 2 else "\n"  # noqa: PLR2004  # two cells leave room
    style = {"ha": "center", "va": "top", "size": 8.5, "color": colour, "linespacing": 0.95}
    axes.text(column + 0.5, row + 0.66, separator.join(parts), style)


def _describe(puzzles: list[_Puzzle]) -> str:
    """The picture in words."""
    lines = []
    for image, puzzle in enumerate(puzzles, 1):
        marks = [puzzle.is_right(number) for number in range(len(puzzle.targets))]
        wrong = [str(number + 1) for number, right in enumerate(marks) if not right]
        verdict = f"; wrong: {', '.join(wrong)}" if wrong else ""
        lines.append(f"Image {image}: {sum(marks)} of {len(marks)} picked rightly{verdict}.")
    return "Puzzles and the network's choices. " + " ".join(lines)


def _check(
    images: NDArray[np.uint8],
    grid: tuple[int, int],
    targets: NDArray[np.integer],
    probabilities: NDArray[np.floating],
) -> None:
    """Refuse what would draw a wrong picture."""
    if images.ndim != 4 or targets.ndim != 2 or not targets.size:  # noqa: PLR2004
        raise ValueError(
            f"expected images (K, H, W, 3) and targets (K, T), got {images.shape} and "
            f"{targets.shape}"
        )
    count, per_image = targets.shape
    if len(images) != count or images.shape[3] != 3:  # noqa: PLR2004  # RGB
        raise ValueError(f"expected {count} RGB images, got an array of shape {images.shape}")
    if images.shape[1] % grid[0] or images.shape[2] % grid[1]:
        raise ValueError(f"the grid {grid} does not divide images of {images.shape[1:3]} pixels")
    if probabilities.shape != (count, per_image, per_image):
        raise ValueError(
            f"expected probabilities of shape {(count, per_image, per_image)}, got "
            f"{probabilities.shape}"
        )
    if not np.allclose(probabilities.sum(axis=2), 1, atol=1e-2):  # bf16 keeps three digits
        raise ValueError("a row of probabilities does not sum to 1; are these logits?")
    if targets.min() < 0 or targets.max() >= grid[0] * grid[1]:
        raise ValueError(f"a target lies outside the grid of {grid[0]} × {grid[1]} patches")
    if any(len(set(row)) < per_image for row in targets.tolist()):
        raise ValueError("an image names the same target twice")
