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

from selfie_pipeline.atomic_write import atomic_write
from selfie_pipeline.config import UserError
from selfie_pipeline.locks import lock
from selfie_pipeline.sources.array_files import ArrayFile, ArrayFiles, read_labels
from selfie_pipeline.sources.base import damaged_error
from selfie_pipeline.sources.pickles import read_arrays, to_str

logger = logging.getLogger(__name__)

_SPLIT_OF_BATCH = {
    **{f"data_batch_{number}": "train" for number in range(1, 6)},
    "test_batch": "test",
}
_META = "batches.meta"
_FILES = (*_SPLIT_OF_BATCH, _META)
_NETWORK_TIMEOUT_S = 30.0  # without a response; the system's default is minutes


def open_cifar10(folder: Path) -> ArrayFiles:
    """Open CIFAR-10, after downloading it if the folder does not exist.

    Files of the same layout that differ from the published ones are used with a warning.

    Raises:
        UserError: The download failed, or a file is missing or damaged.
    """
    if not folder.exists():
        download(folder)
    source = read_cifar10(folder)
    if different := find_unpublished_files(folder):
        logger.warning(
            "%s: %s differ from the published CIFAR-10; results are not comparable with it",
            folder,
            ", ".join(different),
        )
    return source


def read_cifar10(folder: Path) -> ArrayFiles:
    """Read the class names and the labels of a folder with the layout of CIFAR-10.

    Raises:
        UserError: A file is missing or damaged; the message names it.
    """
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} lacks {', '.join(missing)}; put the files of CIFAR-10's python version "
            "there, or delete the folder to have them downloaded"
        )
    meta = folder / _META
    names = read_arrays(meta).get("label_names")
    if not (isinstance(names, list) and names and all(isinstance(n, str | bytes) for n in names)):
        raise damaged_error(meta, "it has no list of class names under label_names")
    batches = [
        ArrayFile(folder / name, split, read_labels(folder / name, first=0))
        for name, split in _SPLIT_OF_BATCH.items()
    ]
    for path, _, labels in batches:
        if labels.max() >= len(names):
            raise damaged_error(path, f"it has the label {labels.max()}, of {len(names)} classes")
    return ArrayFiles(batches, tuple(map(to_str, names)), meta)


def find_unpublished_files(folder: Path) -> list[str]:
    """Return the names of the files that are missing, or whose MD5 is not the published one."""
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
