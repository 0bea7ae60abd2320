"""Source of the published ImageNet at 32×32 pixels: parts in .npz or pickle files."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

from selfie_pipeline.config import UserError
from selfie_pipeline.sources.array_files import ArrayFile, ArrayFiles, read_labels
from selfie_pipeline.sources.base import damaged_error

_PART = re.compile(r"train_data_batch_(?P<number>\d+)(?P<suffix>\.npz)?")
_TEST = "val_data"
_CLASS_NAMES = "map_clsloc.txt"


def open_imagenet32(folder: Path) -> ArrayFiles:
    """Open the parts train_data_batch_1, 2, … and val_data in a folder, all in one format.

    The published labels start at 1, those of the source at 0. As is common, `val_data` is the test
    split. Class names are the published numbers, or the names in the publisher's map_clsloc.txt if
    that is in the folder.

    Raises:
        UserError: A part is missing, or the labels or the class names are damaged; the message
            names the file.
    """
    training = _find_training_parts(folder)
    test = folder / f"{_TEST}{training[0].suffix}"
    if not test.is_file():
        raise UserError(f"{folder} lacks {test.name}, the test split; put it there")
    splits = dict.fromkeys(training, "train") | {test: "test"}
    parts = [ArrayFile(path, split, read_labels(path, first=1)) for path, split in splits.items()]
    images = sum(len(part.labels) for part in parts)
    last = max(parts, key=lambda part: int(part.labels.max()))
    classes = int(last.labels.max()) + 1
    if classes > images:  # some have none
        raise damaged_error(last.path, f"it has the label {classes}, of {images} images")
    names = folder / _CLASS_NAMES
    class_names = names if names.is_file() else None
    return ArrayFiles(parts, _read_class_names(classes, class_names), class_names)


def _find_training_parts(folder: Path) -> list[Path]:
    """Return the training parts, sorted by number; those in .npz files if there are any."""
    by_suffix: dict[str, dict[int, Path]] = {".npz": {}, "": {}}
    for path in folder.glob("train_data_batch_*"):
        if match := _PART.fullmatch(path.name):
            by_suffix[match["suffix"] or ""][int(match["number"])] = path
    parts = by_suffix[".npz"] or by_suffix[""]
    numbers = range(1, max(parts, default=1) + 1)
    missing = list(islice((number for number in numbers if number not in parts), 10))
    if missing:
        suffix = ".npz" if by_suffix[".npz"] or not parts else ""
        names = ", ".join(f"train_data_batch_{number}{suffix}" for number in missing)
        raise UserError(
            f"{folder} lacks {names}; put the parts of ImageNet 32×32 there: train_data_batch_1 "
            f"and so on, and {_TEST}, as .npz or pickle files"
        )
    return [parts[number] for number in sorted(parts)]


def _read_class_names(count: int, names: Path | None) -> tuple[str, ...]:
    """Read class names from lines such as "n02119789 1 kit_fox"; default to the numbers."""
    classes = {number: str(number) for number in range(1, count + 1)}
    if names is not None:
        try:
            for line in names.read_text("utf-8-sig").splitlines():
                _, number, name = line.split()
                # Two classes are called crane, the bird and the machine.
                classes[int(number)] = f"{name} ({number})" if name in classes.values() else name
        except (OSError, ValueError) as error:
            raise damaged_error(names, error) from error
    return tuple(classes[number] for number in range(1, count + 1))
