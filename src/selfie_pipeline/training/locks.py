"""Locks, so that only one process at a time writes to a folder or a file.

The lock is the system's (flock), so it ends with the process, also on NFS.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from selfie_pipeline.config import UserError


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock.

    Attributes:
        host: Its machine.
        pid: Its process ID there.
    """

    host: str = field(default_factory=socket.gethostname)
    pid: int | None = field(default_factory=os.getpid)

    def __str__(self) -> str:
        return f"process {self.pid or ''} on {self.host}"


def create_lock(path: Path) -> FileLock:
    """Return the lock of a file or folder: a hidden file beside it, so that it can be removed."""
    return FileLock(path.with_name(f".{path.name}.lock"))


def acquire(lock: FileLock) -> bool:
    """Acquire a lock if it is free; return whether it was.

    Raises:
        UserError: The file system refused.
    """
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except OSError as error:
        raise UserError(
            f"{lock.lock_file} can't be locked: {error}; fix the cause (permissions, a network "
            "file system without locks) and run again"
        ) from error
    return True


def write_owner(lock: FileLock, owner: Owner) -> None:
    """Write the owner into a lock that this process holds, for the messages of others."""
    with suppress(OSError):  # it is information, and not the lock
        Path(lock.lock_file).write_text(json.dumps(asdict(owner)), "utf-8")


def read_owner(lock: FileLock) -> Owner:
    """Return the owner of a lock that is held, as far as it has said so."""
    try:
        return Owner(**json.loads(Path(lock.lock_file).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return Owner("this or another machine", None)
