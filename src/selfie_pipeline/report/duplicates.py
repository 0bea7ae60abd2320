"""The check of the data, foremost its duplicates, in words and pictures.

`check` is from `check_data`; except in `describe_check`, it is empty if the data has not been
checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from selfie_pipeline.printable import escape_controls, shorten
from selfie_pipeline.report.image_grid import draw_image_grid
from selfie_pipeline.report.style import shorten_start


def describe_check(check: Mapping[str, Any]) -> str:
    """Describe the images of each split, and those in two splits, in one line."""
    splits = ", ".join(map(_describe_split, check["splits"]))
    text = f"{splits}; {'; '.join(describe_overlaps(check)) or 'no image is in two splits'}"
    if check["dropped"]:
        text += f"; training excludes {check['dropped']:,}"
    elif has_leaked(check):
        text += "; see duplicate_pairs; data.drop_leaked=true takes them out of the training"
    return text


def describe_overlaps(check: Mapping[str, Any]) -> list[str]:
    """Describe the images of each two splits that are in both, if there are some."""
    return [_describe_overlap(overlap) for overlap in _find_overlaps(check)]


def has_leaked(check: Mapping[str, Any]) -> bool:
    """Return True if an image of another split is also in the test split."""
    return any(overlap["second"] == "test" for overlap in _find_overlaps(check))


def draw_duplicates(
    pairs: Sequence[Mapping[str, Any]], read: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
) -> Figure:
    """Draw pairs of images side by side, two pairs per row.

    Args:
        pairs: For first and second, the sample, split, class_name and place; and similarity and
            kind.
        read: Reads the images of samples, (n,), as (n, H, W, 3), uint8, RGB.
    """
    samples = [pair[side] for pair in pairs for side in ("first_sample", "second_sample")]
    images = read(np.array(samples, dtype=np.int64))  # (2n, H, W, 3)
    captions, descriptions = [], []
    for pair in pairs:
        sides = [
            (
                pair[f"{side}_split"],
                pair[f"{side}_class_name"] or "no class",
                escape_controls(pair[f"{side}_place"]),
            )
            for side in ("first", "second")
        ]
        likeness = "same pixels" if pair["kind"] == "exact" else f"{pair['similarity']:.2f} alike"
        captions += [
            f"{split}: {shorten(name, 16)}\n{shorten_start(place, 24)}\n{words}"
            for (split, name, place), words in zip(sides, (likeness, ""), strict=True)
        ]
        first, second = (f"{split}, {name}, {place}" for split, name, place in sides)
        descriptions.append(f"{first}, and {second}: {likeness}")
    return draw_image_grid(
        images,
        captions,
        title="Pairs of images in two splits, from the most to the least similar",
        descriptions=descriptions,
        columns=4,
        width_inches=1.7,
        font_size=7,
        placeholder="no image is in two splits",
    )


def _find_overlaps(check: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [overlap for overlap in check["overlaps"] if overlap["pairs"]] if check else []


def _describe_overlap(overlap: Mapping[str, Any]) -> str:
    names = {"train": "training", "unlabeled": "unlabeled", "test": "test"}
    images = overlap["exact"] + overlap["near"]
    first, second = names[overlap["first"]], names[overlap["second"]]
    if images == 1:
        how = "by its pixels" if overlap["exact"] else "nearly"
        text = f"1 {first} image is also among the {second} images ({how})"
    else:
        text = (
            f"{images:,} {first} images ({overlap['exact']:,} by their pixels, "
            f"{overlap['near']:,} nearly) are also among the {second} images, where they are "
            f"{overlap['second_images']:,}"
        )
    if overlap["other_class"]:
        pairs = overlap["other_class"]
        text += f"; {pairs:,} pair{' of them is' if pairs == 1 else 's of them are'} of two classes"
    return text


def _describe_split(split: Mapping[str, Any]) -> str:
    text = f"{split['split']} {split['images']:,} images"
    if split["classes"]:
        fewest, most = split["smallest_class"], split["largest_class"]
        each = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
        text += f" of {split['classes']:,} classes ({each} each)"
    if split["copies"]:
        text += f", of which {split['copies']:,} are copies of others"
    if split["unreadable"]:
        text += f" and {split['unreadable']:,} unreadable file"
        text += "" if split["unreadable"] == 1 else "s"
    return text
