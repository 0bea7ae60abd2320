"""Reading of image files outside a data set, prepared as for a trained network."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from glob import escape, glob
from itertools import accumulate, dropwhile, islice, takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selfie_pipeline.config import PatchConfig, UserError
from selfie_pipeline.sources.decoding import (
    SMALL_FILES_TURN,
    UnreadableImageError,
    are_small,
    decode_file,
)
from selfie_pipeline.sources.folders import is_loop, walk_folders

_ALLOWED = "allowed: a folder of image files, one file, or a pattern such as photos/*.jpg"


def find_files(images: Path) -> tuple[Path, list[str]]:
    """Find image files.

    Args:
        images: A file, a folder or a pattern, in which `**` stands for any number of folders. In
            folders, their subfolders and links to folders, files of any name are found.

    Returns:
        The folder that contains them all, and the files' paths in it with "/", sorted by their
        parts; as text, which takes a third of the memory of `Path`. Hidden folders are skipped;
        dead links are listed.

    Raises:
        UserError: There is no such file or folder, there are no files in it, or a folder can't be
            read.
    """
    if images.is_file():
        return images.parent, [images.name]
    if images.is_dir():
        folder, matches = images, [images]
    else:
        folder = next(parent for parent in images.parents if parent.is_dir())
        found_by_pattern = _expand(str(folder), images.relative_to(folder).parts)
        matches = [path for path in map(Path, found_by_pattern) if not _is_in_loop(path, folder)]
    if not matches:
        raise UserError(f"images = {images} does not exist; {_ALLOWED}")
    found: set[str] = set()
    for match in matches:
        if match.is_dir():
            found.update(_list_files(match, folder))
        elif _is_file_or_dead(match):
            found.add(match.relative_to(folder).as_posix())
    if not found:
        raise UserError(f"images = {images} has no files; {_ALLOWED}")
    return folder, _sort(found)


def _expand(folder: str, pattern: tuple[str, ...]) -> Iterator[str]:
    """Yield the paths that fit the parts of a pattern in a folder.

    `glob` would follow links to folders around them, and take hours for a few.
    """
    start = os.path.join(escape(folder), *takewhile("**".__ne__, pattern))
    rest = tuple(dropwhile("**".__eq__, dropwhile("**".__ne__, pattern)))
    if "**" not in pattern:
        yield from glob(start)
        return
    for top in filter(os.path.isdir, glob(start)):
        if not rest:  # all that is in it
            yield top
            continue
        for walked in walk_folders(Path(top), subject="images: "):
            if walked.first is None:
                yield from _expand(walked.path, rest)


def _is_in_loop(path: Path, base: Path) -> bool:
    """Return True if a path in `base` leads through a link to a folder around the link."""
    inside = path.relative_to(base).parts
    places = accumulate(inside, os.path.join, initial=str(base))
    return any(os.path.islink(place) and is_loop(place) for place in islice(places, 1, None))


def _list_files(folder: Path, base: Path) -> Iterator[str]:
    """Yield the paths in `base` of the files in a folder and its subfolders."""
    for walked in walk_folders(folder, subject="images: "):
        inside = Path(walked.path).relative_to(base).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        for name in walked.files:
            if _is_file_or_dead(os.path.join(walked.path, name)):
                yield prefix + name


def _is_file_or_dead(path: str | Path) -> bool:
    return os.path.isfile(path) or not os.path.exists(path)


def _sort(names: Iterable[str]) -> list[str]:
    """Sort paths by their parts: "a/b" before "a-b", though "-" sorts before "/"."""
    return sorted(names, key=lambda name: name.replace("/", "\0"))


def read_windows(
    paths: Sequence[Path], patch: PatchConfig
) -> tuple[NDArray[np.uint8], list[str | None], Counter[str]]:
    """Read the central windows of image files one after another; for `map_ordered`.

    Of several threads, one at a time decodes small files.

    Returns:
        The windows of the readable files, uint8 of shape (n, H, W, 3); for each file None, or the
        reason that it is unreadable; and the numbers of images with oddities, for `log_oddities`.
    """
    margin = (patch.canvas_size - patch.image_size) // 2
    inside = slice(margin, margin + patch.image_size)
    windows = [np.empty((0, patch.image_size, patch.image_size, 3), dtype=np.uint8)]
    reasons: list[str | None] = []
    oddities: Counter[str] = Counter()
    small = are_small([_size(path) for path in paths])
    # Small files are read before their turn, because the storage may be slow.
    files = [_read_ahead(path) for path in paths] if small else paths
    with SMALL_FILES_TURN if small else nullcontext():
        for file in files:
            try:
                pixels, odd = decode_file(file, patch.canvas_size)
            except UnreadableImageError as error:
                reasons.append(str(error))
            else:
                windows.append(pixels[None, inside, inside])  # (1, H, W, 3)
                reasons.append(None)
                oddities.update(odd)
    return np.concatenate(windows), reasons, oddities


def _read_ahead(path: Path) -> Path | io.BytesIO:
    """Return a file's content; its path if it can't be read, of which decoding tells the reason."""
    try:
        return io.BytesIO(path.read_bytes())
    except OSError:
        return path


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # such as a dead link
        return 0
