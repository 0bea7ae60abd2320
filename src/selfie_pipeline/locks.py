"""Locks, so that only one process at a time writes to a folder or a file.

The lock is the system's (flock), so it ends with the process, also on NFS.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from selfie_pipeline.config import UserError

_LOG = logging.getLogger(__name__)


@contextmanager
def lock(path: Path, title: str | None = None) -> Iterator[bool]:
    """Reserve a file or folder for this process.

    Args:
        path: The file or folder, which need not exist. The lock is a hidden file beside it.
        title: What this process does, in the message while it waits for another one that has the
            lock; None if it does not wait.

    Yields:
        Whether it is reserved; always, with a title.

    Raises:
        UserError: The file system refused to create the lock.
    """
    file = path.with_name(f".{path.name}.lock")
    # Where flock is missing, the library would put a marker into the file, in place of our text.
    file_lock = FileLock(file, fallback_to_soft=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            file_lock.acquire(timeout=0)
        except Timeout:
            if title is not None:
                _LOG.warning("%s: waits for %s, which uses %s", title, _describe_owner(file), path)
                file_lock.acquire()
    except OSError as error:
        raise UserError(
            f"{file} can't be locked: {error}; fix the cause (permissions, a network file system "
            "without locks) and run again"
        ) from error
    if not file_lock.is_locked:
        yield False
        return
    try:
        with suppress(OSError):  # it is information for others, and not the lock
            file.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}), "utf-8")
        yield True
    finally:
        file.unlink(missing_ok=True)  # those that wait for it notice
        file_lock.release()


def _describe_owner(file: Path) -> str:
    """Describe the process that holds a lock, as far as it has said so."""
    try:
        owner = json.loads(file.read_text("utf-8"))
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
