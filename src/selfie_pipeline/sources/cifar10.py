"""Source of CIFAR-10 in its published "python version": seven pickle files in a folder."""

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

from selfie_pipeline.atomic_write import atomic_write
from selfie_pipeline.config import UserError
from selfie_pipeline.locks import lock
from selfie_pipeline.sources.base import Chunk, damaged_error, digest_files, fit_images, stale_error
from selfie_pipeline.sources.pickles import read_arrays, to_str
from selfie_pipeline.sources.samples import build_sample_table

logger = logging.getLogger(__name__)

_SPLIT_OF_BATCH = {
    **{f"data_batch_{number}": "train" for number in range(1, 6)},
    "test_batch": "test",
}
_META = "batches.meta"
_FILES = (*_SPLIT_OF_BATCH, _META)
_IMAGE_SIZE = 32
_NETWORK_TIMEOUT_S = 30.0  # without a response; the system's default is minutes


class Cifar10:
    """The batches of CIFAR-10 in a folder: the published ones, or others of the same layout."""

    def __init__(self, folder: Path) -> None:
        """Find data_batch_1 to data_batch_5, test_batch and batches.meta; read the class names.

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
            raise damaged_error(folder / _META, "it has no list of class names under label_names")
        self.classes: tuple[str, ...] = tuple(to_str(name) for name in names)

    def samples(self) -> pd.DataFrame:
        """Return the table of samples: the five training batches in order, then the test batch.

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
        return build_sample_table(splits, np.concatenate(labels), places, self.classes)

    def fingerprint(self, samples: pd.DataFrame) -> str:
        """Return the SHA-256 over the bytes of the seven files, in hex digits.

        Raises:
            UserError: The batches have changed since the samples were listed.
        """
        if not self.samples().equals(samples):
            raise stale_error()
        return digest_files([self._folder / name for name in _FILES])

    def images(self, samples: pd.DataFrame, canvas_size: int, start: int = 0) -> Iterator[Chunk]:  # noqa: ARG002
        """Read the images in the order of the table, with one batch in memory at a time.

        Raises:
            UserError: A batch is damaged; the message names it.
        """
        batches = (self._read_batch(name)[0] for name in _SPLIT_OF_BATCH)  # (n, 32, 32, 3) each
        return fit_images(batches, canvas_size, start)

    def _read_batch(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read the images (n, 32, 32, 3) and labels (n,) of a batch.

        Raises:
            UserError: The batch is damaged.
        """
        path = self._folder / name
        batch = read_arrays(path)
        pixels, labels = batch.get("data"), batch.get("labels")
        if not (
            isinstance(pixels, np.ndarray)
            and pixels.dtype == np.uint8
            and pixels.ndim == 2  # noqa: PLR2004
            and pixels.shape[1] == 3 * _IMAGE_SIZE**2
        ):
            raise damaged_error(
                path, f"data is not a uint8 array of shape (n, {3 * _IMAGE_SIZE**2})"
            )
        if not (isinstance(labels, list) and len(labels) == len(pixels) > 0):
            raise damaged_error(
                path, f"labels is not a list of {len(pixels)} numbers, one per image"
            )
        if not all(isinstance(label, int) and 0 <= label < len(self.classes) for label in labels):
            raise damaged_error(path, f"a label is not a number from 0 to {len(self.classes) - 1}")
        planes = pixels.reshape(-1, 3, _IMAGE_SIZE, _IMAGE_SIZE)  # (n, 3, 32, 32)
        return planes.transpose(0, 2, 3, 1), np.array(labels, dtype=np.int64)  # (n, 32, 32, 3)


def open_cifar10(folder: Path) -> Cifar10:
    """Open CIFAR-10, after downloading it if the folder does not exist.

    Files of the same layout that differ from the published ones are used with a warning.

    Args:
        folder: Folder of the files, such as data/01_raw/cifar-10-batches-py of a project.

    Returns:
        The source.

    Raises:
        UserError: The download failed, or a file is missing or damaged.
    """
    if not folder.exists():
        download(folder)
    source = Cifar10(folder)
    if different := find_unpublished_files(folder):
        logger.warning(
            "%s: %s differ from the published CIFAR-10; results are not comparable with it",
            folder,
            ", ".join(different),
        )
    return source


def find_unpublished_files(folder: Path) -> list[str]:
    """Find the files whose MD5 differs from the published one.

    Returns:
        The names of missing or different files; empty for CIFAR-10 as published.
    """
    from torchvision.datasets import CIFAR10  # noqa: PLC0415  (seconds to import)
    from torchvision.datasets.utils import check_integrity  # noqa: PLC0415

    published = [*CIFAR10.train_list, *CIFAR10.test_list, (_META, CIFAR10.meta["md5"])]
    return [name for name, md5 in published if not check_integrity(folder / name, md5)]


def download(folder: Path) -> None:
    """Download the published CIFAR-10 through torchvision, and verify it.

    One process at a time downloads; others wait for it.

    Args:
        folder: Destination; it is created atomically, and left as it is if it exists by then.

    Raises:
        UserError: The network or the file system failed; the message names the files and their
            destination.
    """
    from torchvision.datasets import CIFAR10  # noqa: PLC0415  (seconds to import)
    from torchvision.datasets.utils import download_url  # noqa: PLC0415

    try:
        with lock(folder, "ingest"):
            if folder.exists():
                return
            logger.info("Downloading CIFAR-10 from %s to %s", CIFAR10.url, folder)
            with (
                atomic_write(folder) as partial,
                tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.parent) as temporary,
                _network_timeout(_NETWORK_TIMEOUT_S),
            ):
                download_url(CIFAR10.url, temporary, CIFAR10.filename, CIFAR10.tgz_md5)
                with tarfile.open(Path(temporary, CIFAR10.filename)) as archive:
                    archive.extractall(temporary, filter="data")
                Path(temporary, CIFAR10.base_folder).rename(partial)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise UserError(
            f"{folder} does not exist, and CIFAR-10 could not be downloaded from {CIFAR10.url} "
            f"({error}); download {CIFAR10.filename} (MD5 {CIFAR10.tgz_md5}) by other means and "
            f"put its files {', '.join(_FILES)} into {folder}"
        ) from error


@contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    """Set the timeout of new connections, for which torchvision has no argument."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
