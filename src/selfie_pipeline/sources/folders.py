"""Walks through folders of images, for which all readers have the same rules."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from selfie_pipeline.config import UserError

Identity = tuple[int, int]
"""Device and inode of a folder, the same for all links to it."""


class WalkedFolder(NamedTuple):
    """A folder on a walk."""

    path: str
    """With the names of links, not of their targets."""
    identity: Identity
    files: list[str]
    """Names, in any order, including those of dead links; empty if `first` is set."""
    first: str | None = None
    """The path under which the walk has already seen this folder; None for a new one."""


def walk_folders(
    top: Path, *, skipped: Collection[Identity] = (), subject: str = ""
) -> Iterator[WalkedFolder]:
    """Walk through a folder and its subfolders; links are followed, hidden folders are not.

    The files of each folder are found once, under a path without links if there is one. A link to
    a folder that contains the link is skipped; other links to a folder that was seen are reported.

    Args:
        top: The folder.
        skipped: Folders that are not entered.
        subject: Beginning of the error message.

    Raises:
        UserError: A folder can't be read.
    """
    seen: dict[Identity, str] = {}
    folders, links = deque([str(top)]), deque[str]()
    while folders or links:
        path = (folders or links).popleft()
        try:
            identity = identify(path)
            if identity in skipped:
                continue
            first = seen.get(identity)
            files, subfolders = scan_folder(path) if first is None else ([], [])
        except OSError as error:
            reason = f"{error.filename} can't be read: {error.strerror}"
            raise UserError(f"{subject}{reason}") from error
        seen.setdefault(identity, path)
        for subfolder in subfolders:
            (links if os.path.islink(subfolder) else folders).append(subfolder)
        yield WalkedFolder(path, identity, files, first)


def identify(folder: str | Path) -> Identity:
    """Return the identity of a folder, or raise OSError."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def is_loop(path: str | os.PathLike[str]) -> bool:
    """Return True for a link to a folder that contains the link."""
    real = os.path.realpath(path)
    return os.path.commonpath([real, os.path.realpath(os.path.dirname(path))]) == real


def escape_name(name: str) -> str:
    """Return a name of a file or a path in UTF-8, whatever its bytes are."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def find_escaped(folder: Path, place: str) -> Path:
    """Return the path of a place in a folder, as `escape_name` returned it."""
    path = folder / place
    if "\\x" not in place or os.path.lexists(path):  # a name may have these characters itself
        return path
    name = re.sub(rb"\\x([89a-f][0-9a-f])", lambda m: bytes([int(m[1], 16)]), place.encode())
    return folder / os.fsdecode(name)


def scan_folder(path: str | Path) -> tuple[list[str], list[str]]:
    """Return the names of a folder's files, and the paths of its subfolders, sorted.

    Hidden subfolders are left out, and links to folders that contain the link. May raise OSError.
    """
    files, subfolders = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            is_folder = False
            with suppress(OSError):  # such as a link to itself
                is_folder = entry.is_dir()
            if not is_folder:
                files.append(entry.name)
            elif not entry.name.startswith(".") and not (entry.is_symlink() and is_loop(entry)):
                subfolders.append(entry.path)
    return files, sorted(subfolders)
