"""Reading of image files outside a data set, prepared as for a trained network."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from glob import glob, has_magic
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selfie_pipeline.config import PatchConfig, UserError
from selfie_pipeline.sources.decoding import UnreadableImageError, try_decode

_ALLOWED = "allowed: a folder of image files, one file, or a pattern such as photos/*.jpg"


def find_files(images: Path) -> tuple[Path, list[str]]:
    """Find image files.

    Args:
        images: A file, a folder or a pattern, in which `**` stands for any number of folders. In
            folders and their subfolders, files of any name are found.

    Returns:
        The folder that contains them all, and the files' paths in it with "/", sorted by their
        parts; as text, which takes a third of the memory of `Path`. Hidden folders are skipped;
        dead links are listed.

    Raises:
        UserError: There is no such file or folder, or a folder has no files or can't be read.
    """
    if images.is_file():
        return images.parent, [images.name]
    if images.is_dir():
        return images, _sort(_list_files(images, images))
    matches = list(map(Path, glob(str(images), recursive=True)))
    if not matches:
        raise UserError(f"images = {images} does not exist; {_ALLOWED}")
    folder = next(parent for parent in images.parents if not has_magic(str(parent)))
    listed = [
        _list_files(match, folder) if match.is_dir() else [match.relative_to(folder).as_posix()]
        for match in matches
    ]
    return folder, _sort({name for names in listed for name in names})


def _list_files(folder: Path, base: Path) -> list[str]:
    """Return the paths in `base` of the files in a folder and its subfolders."""

    def refuse(error: OSError) -> None:
        raise UserError(f"images: {error.filename} can't be read: {error.strerror}") from error

    found = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(parent).relative_to(base).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        found += [prefix + name for name in names if _is_file_or_dead(os.path.join(parent, name))]
    if not found:
        raise UserError(f"images = {folder} has no files; {_ALLOWED}")
    return found


def _is_file_or_dead(path: str) -> bool:
    return os.path.isfile(path) or not os.path.exists(path)


def _sort(names: Iterable[str]) -> list[str]:
    """Sort paths by their parts: "a/b" before "a-b", though "-" sorts before "/"."""
    return sorted(names, key=lambda name: name.replace("/", "\0"))


def read_windows(
    paths: Sequence[Path], patch: PatchConfig
) -> tuple[NDArray[np.uint8], list[str | None]]:
    """Read the central windows of image files one after another; for `map_ordered`.

    Args:
        paths: The files.
        patch: Patch-grid parameters, with the sizes of canvas and window.

    Returns:
        The windows of the readable files, uint8 of shape (n, H, W, 3); and for each file None, or
        the reason that it is unreadable.
    """
    margin = (patch.canvas_size - patch.image_size) // 2
    inside = slice(margin, margin + patch.image_size)
    windows = [np.empty((0, patch.image_size, patch.image_size, 3), dtype=np.uint8)]
    reasons: list[str | None] = []
    for path in paths:
        canvas = try_decode(path, patch.canvas_size)
        if isinstance(canvas, UnreadableImageError):
            reasons.append(str(canvas))
        else:
            windows.append(canvas[None, inside, inside])  # (1, H, W, 3)
            reasons.append(None)
    return np.concatenate(windows), reasons
