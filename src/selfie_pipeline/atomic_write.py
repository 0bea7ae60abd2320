"""Atomic writing: beside the destination, forced to the disk, then renamed.

A process that dies at any byte, or a disk that fills up, leaves the destination as it was. The
rename is atomic on a local file system only.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Provide a temporary path that becomes `path` if the block ends without an exception.

    Args:
        path: The file or folder to write; an existing file is replaced. Missing parent folders
            are created.

    Yields:
        An absent path in the same folder, at which the block creates a file or a folder. If the
        block raises, that is removed.

    Raises:
        OSError: The system refused to create, write or rename. `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    remove(partial)  # left by a killed process
    try:
        yield partial
        for file in partial.iterdir() if partial.is_dir() else ():
            fsync(file)
        fsync(partial)
        partial.replace(path)
        fsync(path.parent)
    finally:
        remove(partial)


def fsync(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, to the disk.

    File systems that can't do that for folders, such as CIFS and vboxsf, keep their own order.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
