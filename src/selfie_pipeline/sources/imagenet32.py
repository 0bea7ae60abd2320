"""ImageNet at 32×32 pixels as it is published: parts in .npz files, or in pickle files."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from selfie_pipeline.config import UserError
from selfie_pipeline.sources.base import Chunk, changed, digest_files, fit_images
from selfie_pipeline.sources.pickles import read_arrays
from selfie_pipeline.sources.samples import sample_table

_PART = re.compile(r"train_data_batch_(?P<number>\d+)(?P<form>\.npz)?")
_TEST = "val_data"
_NAMES = "map_clsloc.txt"
_SIDE = 32


class ImageNet32:
    """The parts train_data_batch_1, 2, … and val_data in a folder; one is in memory at a time.

    The published labels count from 1; here they count from 0. `val_data` is the test split, as in
    the field. Classes are called by their published number, or by their name where the publisher's
    map_clsloc.txt lies beside the parts.
    """

    def __init__(self, folder: Path) -> None:
        """Find the parts and read their labels.

        Args:
            folder: Where they lie, all of one form.

        Raises:
            UserError: A part is missing or damaged; the message names it.
        """
        self._parts = dict.fromkeys(_training_parts(folder), "train")
        test = folder / f"{_TEST}{next(iter(self._parts)).suffix}"
        if not test.is_file():
            raise UserError(f"{folder} lacks {test.name}, the test split; put it there")
        self._parts[test] = "test"
        self._labels = [_labels(path) for path in self._parts]
        names = folder / _NAMES
        self._names = names if names.is_file() else None
        self.classes = _classes(int(max(map(np.max, self._labels))) + 1, self._names)

    def samples(self) -> pd.DataFrame:
        """The table of samples: the training parts in order, then the test part."""
        splits: list[str] = []
        places: list[str] = []
        for (path, split), labels in zip(self._parts.items(), self._labels, strict=True):
            splits += [split] * len(labels)
            places += [f"{path.name}[{row}]" for row in range(len(labels))]
        return sample_table(splits, np.concatenate(self._labels), places, self.classes)

    def fingerprint(self, samples: pd.DataFrame) -> str:
        """SHA-256 over the files' bytes, in hex digits.

        Raises:
            UserError: The parts have changed since the samples were listed.
        """
        if not self.samples().equals(samples):
            raise changed()
        return digest_files([*self._parts, *([self._names] if self._names else [])])

    def images(
        self,
        samples: pd.DataFrame,  # noqa: ARG002
        canvas_size: int,
        start: int = 0,
    ) -> Iterator[Chunk]:
        """The images in the table's order, with one part in memory at a time.

        Raises:
            UserError: A part is damaged; the message names it.
        """
        parts = (
            _pixels(path, len(labels)).reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
            for path, labels in zip(self._parts, self._labels, strict=True)
        )  # (n, _SIDE, _SIDE, 3) each
        yield from fit_images(parts, canvas_size, start)


def _training_parts(folder: Path) -> list[Path]:
    """The training parts by their number, without a gap; in .npz files if there are any."""
    forms: dict[str, dict[int, Path]] = {".npz": {}, "": {}}
    for path in folder.glob("train_data_batch_*"):
        if found := _PART.fullmatch(path.name):
            forms[found["form"] or ""][int(found["number"])] = path
    parts = forms[".npz"] or forms[""]
    missing = sorted(set(range(1, max(parts, default=1) + 1)) - parts.keys())
    if missing:
        form = "" if forms[""] else ".npz"
        names = ", ".join(f"train_data_batch_{number}{form}" for number in missing)
        raise UserError(
            f"{folder} lacks {names}; put the parts of ImageNet 32×32 there, train_data_batch_1 "
            f"and so on and {_TEST}, as .npz files or as pickle files"
        )
    return [parts[number] for number in sorted(parts)]


def _read(path: Path, key: str) -> Any:
    """One entry of a part; of a .npz file nothing else is read."""
    if path.suffix != ".npz":
        return read_arrays(path).get(key)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays[key]
    except KeyError:
        return None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, " ".join(str(error).split())) from error


def _labels(path: Path) -> NDArray[np.int64]:
    """The labels of a part, (n,), counted from 0."""
    labels = np.asarray(_read(path, "labels"))
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise _damaged(path, "labels is not a list of whole numbers, one an image")
    if labels.min() < 1:
        raise _damaged(path, f"it has the label {labels.min()}, and they count from 1")
    return labels.astype(np.int64) - 1


def _pixels(path: Path, images: int) -> NDArray[np.uint8]:
    """The pixels of a part, (images, 3072): red, green and blue planes after one another."""
    pixels = _read(path, "data")
    shape = (images, 3 * _SIDE**2)
    if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape == shape):
        raise _damaged(path, f"data is not a uint8 array of shape {shape}")
    return pixels


def _classes(count: int, names: Path | None) -> tuple[str, ...]:
    """The classes' names by their lines "n02119789 1 kit_fox", or else their numbers."""
    classes = {number: str(number) for number in range(1, count + 1)}
    if names is not None:
        try:
            for line in names.read_text("utf-8").splitlines():
                _, number, name = line.split()
                classes[int(number)] = name
        except (OSError, ValueError) as error:
            raise _damaged(names, str(error)) from error
    return tuple(classes[number] for number in range(1, count + 1))


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged: {why}; put a whole copy in its place")
