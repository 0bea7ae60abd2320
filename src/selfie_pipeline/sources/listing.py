"""Images as a reader lists them, and their division into splits by the names of those."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from selfie_pipeline.config import UserError
from selfie_pipeline.printable import escape_controls, list_first
from selfie_pipeline.sources.decoding import has_image_extension
from selfie_pipeline.sources.samples import TEST_SHARE, build_sample_table, draw_test_split

logger = logging.getLogger(__name__)

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation", "dev", "eval")
"""Names of the test split; the first that has labels is taken."""
UNLABELED_NAMES = ("unlabeled", "unlabelled")
SPLIT_NAMES = (*TRAIN_NAMES, *TEST_NAMES, *UNLABELED_NAMES)


class ListedImage(NamedTuple):
    """An image of a data set, before the splits are chosen."""

    place: str
    """Human-readable location in the data set, and its identity: "train/cat/1.jpg"."""
    split: str = ""
    """One of `SPLIT_NAMES`; empty if nothing names a split."""
    class_name: str = ""
    """Empty for none."""
    size: int = 0
    """Bytes of the file; -1 for a dead link."""
    row: int = 0
    """Number of the image among all that its reader lists."""
    source: int = 0
    """Origin of the class: 0 if the data set itself gave it first, n if the n-th table did."""
    folder: tuple[int, int] = (0, 0)
    """Device and inode of the file's folder."""


def normalise_unicode(text: str) -> str:
    """Return a name with composed letters (NFC), in which equal names have equal characters.

    macOS stores "é" in file names as two characters, while tables and other systems have one.
    """
    return unicodedata.normalize("NFC", text)


def choose_splits(images: Sequence[ListedImage]) -> list[ListedImage]:
    """Divide images into training, test and unlabeled ones.

    - The test split is the first of `TEST_NAMES` that has images of a training class. If none has,
      a fixed share of each class is drawn (see `draw_test_split`): of the images whose class was
      named first, so that a label table that is added later leaves the test split as it is.
    - Other images of `TEST_NAMES` are left out, and logged.
    - The others are training images if they have a class, and unlabeled ones if they have none, or
      if their split says so.

    Returns:
        The used images in the same order; their splits are those of `SPLITS`.

    Raises:
        UserError: A test split would be left out because its classes differ from the training
            classes in case, spaces or punctuation.
    """
    images = [
        image._replace(class_name="") if image.split in UNLABELED_NAMES else image
        for image in images
    ]
    trained = {image.class_name for image in images if image.split not in TEST_NAMES} - {""}
    labeled = {image.split for image in images if image.class_name in trained} & {*TEST_NAMES}
    test = next((name for name in TEST_NAMES if name in labeled), None)
    for name in TEST_NAMES:
        if name == test:
            break
        _check_classes(name, {image.class_name for image in images if image.split == name}, trained)
    chosen: list[ListedImage] = []
    unused: dict[str, list[ListedImage]] = defaultdict(list)
    for image in images:
        if image.split not in TEST_NAMES:
            chosen.append(image._replace(split="train" if image.class_name else "unlabeled"))
        elif image.split == test and image.class_name:
            chosen.append(image._replace(split="test"))
        elif image.split in labeled and image.class_name:
            unused[f"the test split is {test}, not {image.split}"].append(image)
        else:
            unused["a test image needs a class that training images have"].append(image)
    for reason, skipped in unused.items():
        log_skipped(skipped, reason)
    return chosen if test else _draw_test_split(chosen)


def find_split(place: str) -> str:
    """Return the first word of a path that names a split, from its last part upwards; "" for none.

    So data/train-00000-of-00002.parquet is of "train", and validation/0000.parquet of "validation".
    """
    for part in reversed(place.split("/")):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in SPLIT_NAMES:
                return word
    return ""


def build_table(images: Sequence[ListedImage], classes: Sequence[str]) -> pd.DataFrame:
    """Build the table of samples (see `build_sample_table`) of images with chosen splits.

    Classes whose names differ only in case, spaces or punctuation are logged: they may be one.
    """
    _log_similar_names(Counter(image.class_name for image in images))
    labels = {"": -1, **{name: label for label, name in enumerate(classes)}}
    return build_sample_table(
        [image.split for image in images],
        np.array([labels[image.class_name] for image in images], dtype=np.int64),
        [image.place for image in images],
        classes,
    )


def log_skipped(images: Sequence[ListedImage], reason: str) -> None:
    """Log how many images are left out, and why."""
    if images:
        place, reason = escape_controls(images[0].place), escape_controls(reason)
        logger.warning("Skipped %d files, such as %s: %s", len(images), place, reason)


def _check_classes(split: str, classes: Collection[str], trained: Collection[str]) -> None:
    """Raise if classes of a test split have only the letters and digits of training classes."""
    keys = {simplify_name(name) for name in classes} & {simplify_name(name) for name in trained}
    keys.discard("")
    if keys:
        found, expected = (
            list_first(sorted(name for name in names if simplify_name(name) in keys))
            for names in (classes, trained)
        )
        raise UserError(
            f"the split {split} has the classes {found}, which differ from the training classes "
            f"{expected} only in case, spaces or punctuation; rename the folders or correct the "
            "labels"
        )


def simplify_name(name: str) -> str:
    """Return a name without case, spaces and punctuation."""
    return re.sub(r"[\W_]", "", name.casefold())


def _log_similar_names(images: Mapping[str, int]) -> None:
    """Log the classes whose names have the same letters and digits; `images` counts theirs."""
    groups = defaultdict(list)
    for name in sorted(images):
        groups[simplify_name(name)].append(f"{name} ({images[name]} images)")
    similar = [" and ".join(names) for key, names in groups.items() if key and len(names) > 1]
    if similar:
        logger.warning(
            "Classes whose names differ only in case, spaces or punctuation: %s; if they are the "
            "same, rename the folders or correct the labels",
            list_first(similar),
        )


def _draw_test_split(images: list[ListedImage]) -> list[ListedImage]:
    """Draw the test split from the training images, and say so."""
    first: dict[str, int] = {}
    for image in images:
        first[image.class_name] = min(image.source, first.get(image.class_name, image.source))
    rows = [
        row
        for row, image in enumerate(images)
        if image.split == "train" and image.source == first[image.class_name]
    ]
    named = {images[row].class_name for row in rows if has_image_extension(images[row].place)}
    rows = [  # a file such as .DS_Store is drawn only where no file is named as an image
        row
        for row in rows
        if has_image_extension(images[row].place) or images[row].class_name not in named
    ]
    if not rows:
        return images
    classes = [images[row].class_name for row in rows]
    is_test = draw_test_split(classes, [_name_for_drawing(images[row].place) for row in rows])
    tested = {name for name, test in zip(classes, is_test, strict=True) if test}
    untested = sorted({image.class_name for image in images if image.split == "train"} - tested)
    logger.info(
        "No test split with a training class was found (test/, val/ …), so %d of %d images were "
        "drawn as one: %g %% of each class, and at least one image where there are two or more; "
        "the draw depends on the paths alone, `samples` lists the images%s",
        is_test.sum(),
        len(rows),
        100 * TEST_SHARE,
        f". Without test images: {list_first(untested)}" if untested else "",
    )
    divided = list(images)
    for row, test in zip(rows, is_test, strict=True):
        if test:
            divided[row] = images[row]._replace(split="test")
    return divided


def _name_for_drawing(place: str) -> str:
    """Return a place without train/, so that the draw is the same with and without that folder."""
    folder, _, rest = place.partition("/")
    return rest if folder.casefold() in TRAIN_NAMES else place
