"""The check of the data, in words and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from selfie_pipeline.report.image_grid import draw_image_grid
from selfie_pipeline.report.style import join_sentences, shorten, styled


def describe_check(check: Mapping[str, Any]) -> str:
    """Describe the images of each split, and those in two splits, in one line."""
    splits = [_describe_split(split) for split in check["splits"]]
    overlaps = [describe_overlap(overlap) for overlap in check["overlaps"] if overlap["pairs"]]
    found = "; ".join(overlaps) or "no image is in two splits"
    return f"{', '.join(splits)}; {found}{describe_dropping(check)}"


def describe_overlap(overlap: Mapping[str, Any]) -> str:
    """Describe the images of one split that are also in another."""
    names = {"train": "training", "unlabeled": "unlabeled", "test": "test"}
    images = overlap["exact"] + overlap["near"]
    text = (
        f"{images:,} {names[overlap['first']]} images ({overlap['exact']:,} by their pixels, "
        f"{overlap['near']:,} nearly) are also among the {names[overlap['second']]} images, where "
        f"they are {overlap['second_images']:,}"
    )
    if overlap["other_class"]:
        text += f"; {overlap['other_class']:,} pairs of them are of different classes"
    return text


def describe_dropping(check: Mapping[str, Any]) -> str:
    """Describe what training does with the images that are also in the test split."""
    if check["dropped"]:
        return f"; training does without these {check['dropped']:,}"
    if any(overlap["second"] == "test" and overlap["pairs"] for overlap in check["overlaps"]):
        return "; see duplicate_pairs; data.drop_leaked=true takes them out of the training"
    return ""


@styled
def draw_twins(images: NDArray[np.uint8], pairs: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw pairs of images side by side, two pairs per row.

    Args:
        images: (2n, H, W, 3) uint8, RGB; the two images of each of n pairs, which may be none.
        pairs: For first and second, the split, class_name and place; and similarity and kind.

    Raises:
        ValueError: The numbers of images and pairs differ.
    """
    captions, descriptions = [], []
    for pair in pairs:
        sides = [
            (pair[f"{side}_split"], pair[f"{side}_class_name"] or "no class", pair[f"{side}_place"])
            for side in ("first", "second")
        ]
        likeness = "same pixels" if pair["kind"] == "exact" else f"{pair['similarity']:.2f} alike"
        captions += [
            f"{split}: {shorten(name, 20)}\n{_shorten_start(place, 26)}\n{words}"
            for (split, name, place), words in zip(sides, (likeness, ""), strict=True)
        ]
        first, second = (f"{split}, {name}, {place}" for split, name, place in sides)
        descriptions.append(f"{first}, and {second}: {likeness}")
    figure = draw_image_grid(
        images,
        captions,
        columns=4,
        panel_inches=(2.1, 2.7),
        font_size=8,
        placeholder="no image is in two splits",
    )
    title = "Pairs of images in two splits, from the most to the least similar"
    figure.set_label(join_sentences(title, *(descriptions or ["There are none"])))
    return figure


def _describe_split(split: Mapping[str, Any]) -> str:
    text = f"{split['split']} {split['images']:,} images"
    if split["classes"]:
        fewest, most = split["smallest_class"], split["largest_class"]
        each = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
        text += f" of {split['classes']:,} classes ({each} each)"
    if split["copies"]:
        text += f", of which {split['copies']:,} are copies of others"
    if split["unreadable"]:
        text += f" and {split['unreadable']:,} unreadable files"
    return text


def _shorten_start(text: str, limit: int) -> str:
    """Cut text to at most `limit` characters at its start, since a path's end tells it apart."""
    return text if len(text) <= limit else f"…{text[1 - limit :]}"
