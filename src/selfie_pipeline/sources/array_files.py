"""Source of images of 32×32 pixels in files of arrays, as CIFAR-10 and ImageNet 32×32 have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from selfie_pipeline.sources.base import Chunk, damaged_error, digest_files, fit_images, stale_error
from selfie_pipeline.sources.pickles import read_arrays
from selfie_pipeline.sources.samples import build_sample_table

_IMAGE_SIZE = 32


class ArrayFile(NamedTuple):
    """A file of images and their labels."""

    path: Path
    split: str
    labels: NDArray[np.int64]
    """(n,), from 0."""


class ArrayFiles:
    """Images in files of arrays, of which one is in memory at a time."""

    def __init__(
        self, files: Sequence[ArrayFile], classes: tuple[str, ...], class_names: Path | None
    ) -> None:
        """Describe the files.

        Args:
            files: The files with images, in the order of the samples.
            classes: Class names; a label is an index into this tuple.
            class_names: The file that these were read from, if there is one.
        """
        self._files = files
        self.classes = classes
        self._class_names = class_names

    def samples(self) -> pd.DataFrame:
        """Return the table of samples, in the order of the files; see `Source`."""
        labels = np.concatenate([file.labels for file in self._files])
        splits = [file.split for file in self._files for _ in file.labels]
        places = [
            f"{file.path.name}[{row}]" for file in self._files for row in range(len(file.labels))
        ]
        return build_sample_table(splits, labels, places, self.classes)

    def fingerprint(self, samples: pd.DataFrame) -> str:
        """Return the SHA-256 over the bytes of the files; see `Source`."""
        if not self.samples().equals(samples):
            raise stale_error()
        paths = [file.path for file in self._files]
        return digest_files([*paths, *([self._class_names] if self._class_names else [])])

    def images(self, samples: pd.DataFrame, canvas_size: int, start: int = 0) -> Iterator[Chunk]:  # noqa: ARG002
        """Read the images, one file after the other; see `Source`."""
        parts = (_read_images(file.path, len(file.labels)) for file in self._files)
        return fit_images(parts, canvas_size, start)  # of (n, 32, 32, 3) each


def _read_images(path: Path, count: int) -> NDArray[np.uint8]:
    """Read the images of a file, (count, 32, 32, 3)."""
    pixels = _read_entry(path, "data")
    shape = (count, 3 * _IMAGE_SIZE**2)
    if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape == shape):
        raise damaged_error(path, f"data is not a uint8 array of shape {shape}")
    planes = pixels.reshape(-1, 3, _IMAGE_SIZE, _IMAGE_SIZE)  # (count, 3, 32, 32)
    return planes.transpose(0, 2, 3, 1)  # (count, 32, 32, 3)


def read_labels(path: Path, first: int) -> NDArray[np.int64]:
    """Read the labels of a file, and number them from 0: (n,), int64.

    Args:
        path: The file.
        first: The smallest label that it may have.

    Raises:
        UserError: The file is damaged; the message names it.
    """
    content = _read_entry(path, "labels")
    try:
        labels = np.asarray(content)
    except (ValueError, TypeError, OverflowError):  # a mixture of which numpy makes no array
        labels = np.empty(0)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise damaged_error(path, "labels is not a list of integers, one per image")
    labels = labels.astype(np.int64)  # of larger ones, negative numbers
    if labels.min() < first:
        raise damaged_error(path, f"it has the label {labels.min()}, but labels start at {first}")
    return labels - first


def _read_entry(path: Path, key: str) -> Any:
    """Read one entry of an .npz or a pickle file, or None if it has no such entry."""
    if path.suffix != ".npz":
        return read_arrays(path).get(key)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays[key]
    except KeyError:
        return None
    except Exception as error:  # damaged archives can raise any exception
        raise damaged_error(path, error) from error
