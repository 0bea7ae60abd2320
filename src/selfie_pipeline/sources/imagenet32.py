"""Source of the published ImageNet at 32×32 pixels: parts in .npz or pickle files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from selfie_pipeline.config import UserError
from selfie_pipeline.sources.base import Chunk, damaged_error, digest_files, fit_images, stale_error
from selfie_pipeline.sources.pickles import read_arrays
from selfie_pipeline.sources.samples import build_sample_table

_PART = re.compile(r"train_data_batch_(?P<number>\d+)(?P<suffix>\.npz)?")
_TEST = "val_data"
_CLASS_NAMES = "map_clsloc.txt"
_IMAGE_SIZE = 32


class ImageNet32:
    """The parts train_data_batch_1, 2, … and val_data in a folder; one is in memory at a time.

    The published labels start at 1, the ones of this class at 0. As is common, `val_data` is the
    test split. Class names are the published numbers, or the names in the publisher's
    map_clsloc.txt if that is in the folder.
    """

    def __init__(self, folder: Path) -> None:
        """Find the parts, all in one format, and read their labels.

        Raises:
            UserError: A part is missing or damaged; the message names it.
        """
        self._parts = dict.fromkeys(_find_training_parts(folder), "train")
        test = folder / f"{_TEST}{next(iter(self._parts)).suffix}"
        if not test.is_file():
            raise UserError(f"{folder} lacks {test.name}, the test split; put it there")
        self._parts[test] = "test"
        self._labels = [_read_labels(path) for path in self._parts]
        names = folder / _CLASS_NAMES
        self._names = names if names.is_file() else None
        self.classes = _read_class_names(self._count_classes(), self._names)

    def _count_classes(self) -> int:
        """Return the largest label.

        Raises:
            UserError: It is larger than the number of images, so some classes have none.
        """
        images = sum(map(len, self._labels))
        largest = [int(labels.max()) + 1 for labels in self._labels]
        if max(largest) > images:
            part = list(self._parts)[largest.index(max(largest))]
            raise damaged_error(part, f"it has the label {max(largest)}, of {images} images")
        return max(largest)

    def samples(self) -> pd.DataFrame:
        """Return the table of samples: the training parts in order, then the test part."""
        splits: list[str] = []
        places: list[str] = []
        for (path, split), labels in zip(self._parts.items(), self._labels, strict=True):
            splits += [split] * len(labels)
            places += [f"{path.name}[{row}]" for row in range(len(labels))]
        return build_sample_table(splits, np.concatenate(self._labels), places, self.classes)

    def fingerprint(self, samples: pd.DataFrame) -> str:
        """Return the SHA-256 over the bytes of the files, in hex digits.

        Raises:
            UserError: The parts have changed since the samples were listed.
        """
        if not self.samples().equals(samples):
            raise stale_error()
        return digest_files([*self._parts, *([self._names] if self._names else [])])

    def images(self, samples: pd.DataFrame, canvas_size: int, start: int = 0) -> Iterator[Chunk]:  # noqa: ARG002
        """Read the images in the order of the table, with one part in memory at a time.

        Raises:
            UserError: A part is damaged; the message names it.
        """
        parts = (
            _read_images(path, len(labels))
            for path, labels in zip(self._parts, self._labels, strict=True)
        )  # (n, 32, 32, 3) each
        return fit_images(parts, canvas_size, start)


def _find_training_parts(folder: Path) -> list[Path]:
    """Return the training parts, sorted by number; those in .npz files if there are any.

    Raises:
        UserError: A number is missing.
    """
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


def _read(path: Path, key: str) -> Any:
    """Read one entry of a part, or None if it has no such entry."""
    if path.suffix != ".npz":
        return read_arrays(path).get(key)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays[key]
    except KeyError:
        return None
    except Exception as error:  # damaged archives can raise any exception
        raise damaged_error(path, error) from error


def _read_labels(path: Path) -> NDArray[np.int64]:
    """Read the labels of a part, (n,), and subtract 1."""
    try:
        labels = np.asarray(_read(path, "labels"))
    except ValueError:  # lists of several lengths
        labels = np.empty(0)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise damaged_error(path, "labels is not a list of integers, one per image")
    labels = labels.astype(np.int64)  # of larger ones, negative numbers
    if labels.min() < 1:
        raise damaged_error(path, f"it has the label {labels.min()}, but labels start at 1")
    return labels - 1


def _read_images(path: Path, count: int) -> NDArray[np.uint8]:
    """Read the images of a part, (count, 32, 32, 3)."""
    pixels = _read(path, "data")
    shape = (count, 3 * _IMAGE_SIZE**2)
    if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape == shape):
        raise damaged_error(path, f"data is not a uint8 array of shape {shape}")
    planes = pixels.reshape(-1, 3, _IMAGE_SIZE, _IMAGE_SIZE)  # (count, 3, 32, 32)
    return planes.transpose(0, 2, 3, 1)  # (count, 32, 32, 3)


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
