"""Image files of no data set: a folder of them, to be looked at as a trained network sees them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selfie_pipeline.config import PatchConfig, UserError
from selfie_pipeline.sources.decoding import UnreadableImageError, try_decode


def list_files(folder: Path) -> list[Path]:
    """All files in a folder and in the folders below, whatever their names, in their order.

    Hidden folders are not entered.

    Raises:
        UserError: It is no folder, or has no files, or can't be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"images: {error.filename} can't be read: {error.strerror}") from error

    if not folder.is_dir():
        raise UserError(f"images = {folder} is not there; allowed: a folder of image files")
    found = []
    for where, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(where, name) for name in names)
        found += [path for path in paths if path.is_file() or not path.exists()]  # or a dead link
    if not found:
        raise UserError(f"images = {folder} has no files; allowed: a folder of image files")
    return sorted(found)


def read_windows(
    paths: Sequence[Path], patch: PatchConfig
) -> tuple[NDArray[np.uint8], list[str | None]]:
    """The central windows of image files, decoded one after another; for `in_order`.

    Args:
        paths: The files.
        patch: For the sizes of canvas and window.

    Returns:
        The windows of the files that can be read, uint8 of shape (n, H, W, 3); and for each file
        why it gives none, or None.
    """
    edge = (patch.canvas_size - patch.image_size) // 2
    inside = slice(edge, edge + patch.image_size)
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
