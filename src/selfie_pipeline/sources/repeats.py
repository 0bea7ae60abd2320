"""Folders that links list at several places of a data set."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from selfie_pipeline.config import UserError
from selfie_pipeline.sources.folders import Identity
from selfie_pipeline.sources.listing import TEST_NAMES, ListedImage, log_skipped


def drop_repeats(folder: Path, images: list[ListedImage]) -> list[ListedImage]:
    """Keep one place of each folder that links list at several, and log the files of the others.

    Places with a class or in a test split come first, then those that are reached without links,
    then the first by name. A folder in several test splits, such as test/ and val/, is kept in
    each, because only one of these splits is used.

    Raises:
        UserError: A folder has two classes, or is in a training and a test split.
    """
    places: dict[Identity, dict[str, tuple[str, str]]] = defaultdict(dict)
    for image in images:
        places[image.folder].setdefault(_parent(image), _role(image))
    kept: set[str] = set()
    for roles in places.values():
        labeled = {place: role for place, role in roles.items() if any(role)} or roles
        tests = [place for place, (split, _) in labeled.items() if split]
        first, *others = sorted(labeled)
        if len(tests) < len(labeled):
            for other in others:
                if labeled[other] != labeled[first]:
                    raise two_roles_error(folder, first, other)
        real = [place for place in (first, *others) if others and _is_real(folder, place)]
        kept.update(tests or real or [first])
    log_skipped(
        [image for image in images if _parent(image) not in kept],
        "links list their folders at another place, too",
    )
    return [image for image in images if _parent(image) in kept]


def _parent(image: ListedImage) -> str:
    return image.place.rpartition("/")[0]


def _role(image: ListedImage) -> tuple[str, str]:
    """Return "test" or "", and the class."""
    return "test" if image.split in TEST_NAMES else "", image.class_name


def _is_real(folder: Path, place: str) -> bool:
    """Return True if a place in a folder is reached without links."""
    return os.path.realpath(folder / place) == os.path.join(os.path.realpath(folder), place)


def two_roles_error(folder: Path, place: str, other: str) -> UserError:
    """Build the error for a folder that would have two classes or splits."""
    return UserError(
        f"{place} and {other} are one folder in {folder}, by a link, but of two classes or splits; "
        "allowed: one of each; remove the link, or make a copy of the images that belong there"
    )
