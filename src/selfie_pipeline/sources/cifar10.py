"""CIFAR-10 as it is published: the "python version", seven pickle files in a folder."""

from __future__ import annotations

import http.client
import logging
import socket
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from selfie_pipeline.config import UserError
from selfie_pipeline.sources.base import Chunk, changed, digest_files, fit_images
from selfie_pipeline.sources.pickles import as_text, read_arrays
from selfie_pipeline.sources.samples import sample_table

logger = logging.getLogger(__name__)

_SPLIT_OF_BATCH = {
    **{f"data_batch_{number}": "train" for number in range(1, 6)},
    "test_batch": "test",
}
_META = "batches.meta"
_FILES = (*_SPLIT_OF_BATCH, _META)
_SIDE = 32
_NETWORK_TIMEOUT = 30.0  # seconds without an answer; the system's own limit is minutes


class Cifar10:
    """CIFAR-10's batches in a folder: the published ones, or others of the same layout."""

    def __init__(self, folder: Path) -> None:
        """Find the files and read the class names.

        Args:
            folder: Where data_batch_1 to data_batch_5, test_batch and batches.meta lie.

        Raises:
            UserError: A file is missing, or batches.meta is damaged; the message names it.
        """
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing:
            raise UserError(
                f"{folder} lacks {', '.join(missing)}; put the files of CIFAR-10's python version "
                "there, or delete the folder to have them downloaded"
            )
        self._folder = folder
        names = read_arrays(folder / _META).get("label_names")
        if not (
            isinstance(names, list) and names and all(isinstance(n, str | bytes) for n in names)
        ):
            raise UserError(
                f"{folder / _META} is damaged: it has no list of class names under label_names; "
                "put a whole copy in its place"
            )
        self.classes: tuple[str, ...] = tuple(as_text(name) for name in names)

    def samples(self) -> pd.DataFrame:
        """The table of samples: the five training batches in order, then the test batch.

        Raises:
            UserError: A batch is damaged; the message names it.
        """
        splits: list[str] = []
        places: list[str] = []
        labels: list[NDArray[np.int64]] = []
        for name, split in _SPLIT_OF_BATCH.items():
            _, batch_labels = self._read_batch(name)
            labels.append(batch_labels)
            splits += [split] * len(batch_labels)
            places += [f"{name}[{row}]" for row in range(len(batch_labels))]
        return sample_table(splits, np.concatenate(labels), places, self.classes)

    def fingerprint(self, samples: pd.DataFrame) -> str:
        """SHA-256 over the seven files' bytes, in hex digits.

        Raises:
            UserError: The batches have changed since the samples were listed.
        """
        if not self.samples().equals(samples):
            raise changed()
        return digest_files([self._folder / name for name in _FILES])

    def images(
        self,
        samples: pd.DataFrame,  # noqa: ARG002
        canvas_size: int,
        start: int = 0,
    ) -> Iterator[Chunk]:
        """The images in the table's order, with one batch in memory at a time.

        Raises:
            UserError: A batch is damaged; the message names it.
        """
        batches = (
            self._read_batch(name)[0].reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
            for name in _SPLIT_OF_BATCH
        )  # (n, _SIDE, _SIDE, 3) each
        yield from fit_images(batches, canvas_size, start)

    def _read_batch(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Pixels (n, 3072), red, green and blue planes after one another, and labels (n,)."""
        path = self._folder / name
        batch = read_arrays(path)
        pixels, labels = batch.get("data"), batch.get("labels")
        if not (
            isinstance(pixels, np.ndarray)
            and pixels.dtype == np.uint8
            and pixels.ndim == 2  # noqa: PLR2004
            and pixels.shape[1] == 3 * _SIDE**2
        ):
            raise _damaged(path, f"data is not a uint8 array of shape (n, {3 * _SIDE**2})")
        if not (isinstance(labels, list) and len(labels) == len(pixels) > 0):
            raise _damaged(path, f"labels is not a list of {len(pixels)} numbers, one an image")
        if not all(isinstance(label, int) and 0 <= label < len(self.classes) for label in labels):
            raise _damaged(path, f"a label is not a number from 0 to {len(self.classes) - 1}")
        return pixels, np.array(labels, dtype=np.int64)


def open_cifar10(folder: Path) -> Cifar10:
    """Open CIFAR-10, downloading it where the folder is absent.

    Files of the layout that are not the published ones are used too; a warning says so.

    Args:
        folder: Where the files lie, or are to lie; the data/01_raw/cifar-10-batches-py of a
            project.

    Returns:
        The source.

    Raises:
        UserError: The folder is absent and the download failed, or a file is missing or damaged.
    """
    if not folder.exists():
        download(folder)
    source = Cifar10(folder)
    if different := unpublished(folder):
        logger.warning(
            "%s: %s differ from the published CIFAR-10; results can't be compared with its",
            folder,
            ", ".join(different),
        )
    return source


def unpublished(folder: Path) -> list[str]:
    """Names of the files that are not byte for byte the published ones, by their MD5.

    Args:
        folder: Where the files lie.

    Returns:
        The names of missing or different files; empty for CIFAR-10 as published.
    """
    from torchvision.datasets import CIFAR10  # noqa: PLC0415  (seconds to import)
    from torchvision.datasets.utils import check_integrity  # noqa: PLC0415

    published = [*CIFAR10.train_list, *CIFAR10.test_list, (_META, CIFAR10.meta["md5"])]
    return [name for name, md5 in published if not check_integrity(folder / name, md5)]


def download(folder: Path) -> None:
    """Download CIFAR-10 as published, checked, through torchvision.

    The files come to lie beside `folder` and are moved there together: it is whole or absent.

    Args:
        folder: Where the files are to lie; absent.

    Raises:
        UserError: The network or the disk did not allow it; the message says which files to put
            where.
    """
    from torchvision.datasets import CIFAR10  # noqa: PLC0415  (seconds to import)
    from torchvision.datasets.utils import download_url  # noqa: PLC0415

    logger.info("Downloading CIFAR-10 from %s to %s", CIFAR10.url, folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.parent) as beside,
            _network_timeout(_NETWORK_TIMEOUT),
        ):
            download_url(CIFAR10.url, beside, CIFAR10.filename, CIFAR10.tgz_md5)
            with tarfile.open(Path(beside) / CIFAR10.filename) as archive:
                archive.extractall(beside, filter="data")
            (Path(beside) / CIFAR10.base_folder).rename(folder)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise UserError(
            f"{folder} is absent, and CIFAR-10 could not be downloaded from {CIFAR10.url} "
            f"({error}); get {CIFAR10.filename} (MD5 {CIFAR10.tgz_md5}) in another way and put its "
            f"files {', '.join(_FILES)} into {folder}"
        ) from error


@contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    """Have new connections give up after a silence; torchvision has no argument for it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged: {why}; put a whole copy in its place")
