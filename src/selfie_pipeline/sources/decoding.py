"""Decodes image files of any format and fits them to the canvas, on all cores.

Decoding runs in threads, because Pillow releases the GIL while it reads, decodes and resizes, and
threads pass images on without copying them.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePath
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from selfie_pipeline.sources.base import fit_image

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM")  # none runs a program
_EXTENSIONS = re.compile(r"\.(jpe?g|jpe|jfif|png|webp|bmp|dib|gif|tiff?|p[bgnp]m)", re.IGNORECASE)
NOT_AN_IMAGE = "not an image"
_QUEUED_PER_CORE = 16

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class UnreadableImageError(Exception):
    """An image file can't be decoded; the message is the reason in a few words."""


def decode_file(file: Path | BinaryIO, canvas_size: int) -> NDArray[np.uint8]:
    """Decode an image file, whatever its name, and fit it to the canvas.

    Any mode becomes RGB: grey, palette and CMYK by Pillow's conversion, 16 bits by their higher
    eight, transparency over white. EXIF orientation is applied. Of several frames, the first is
    used. A JPEG of four times the canvas or more is decoded at a fraction of its size, but at least
    at twice the canvas, so that resizing still averages pixels.

    Args:
        file: A path, or a file opened for reading bytes.
        canvas_size: Side of the result, pixels.

    Returns:
        uint8 of shape (canvas_size, canvas_size, 3).

    Raises:
        UnreadableImageError: The file can't be read, is empty, cut off, damaged, too large, or not
            an image.
    """
    try:
        with Image.open(file, formats=_FORMATS) as image:
            image.draft(None, (2 * canvas_size, 2 * canvas_size))  # ignored by all but JPEG
            image.load()
            with suppress(Exception):  # damaged EXIF with intact pixels
                ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(fit_image(_to_rgb(image), canvas_size))
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError(NOT_AN_IMAGE if _has_bytes(file) else "empty") from None
    except Image.DecompressionBombError:
        raise UnreadableImageError("more pixels than Pillow accepts") from None
    except Exception as error:  # damaged files can raise any exception
        if isinstance(error, OSError) and error.strerror:
            raise UnreadableImageError(f"can't be read: {error.strerror}") from error
        raise UnreadableImageError(f"damaged: {' '.join(str(error).split())}") from error


def try_decode(file: Path | BinaryIO, canvas_size: int) -> NDArray[np.uint8] | UnreadableImageError:
    """Return the result of `decode_file`, or the error that it raises."""
    try:
        return decode_file(file, canvas_size)
    except UnreadableImageError as error:
        return error


def map_ordered(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Map a function over items, in threads on all cores, without Pillow's warnings.

    Args:
        function: Called in several threads at once.
        items: Consumed as needed.

    Yields:
        The results in the order of the items; only a few are buffered.

    Raises:
        Exception: Any exception of the function; queued calls are cancelled.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    queue: deque[Future[_Result]] = deque()
    with warnings.catch_warnings(), ThreadPoolExecutor(cores) as pool:
        # Pillow warns about oddities of files that it can read.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            for item in items:
                queue.append(pool.submit(function, item))
                if len(queue) > _QUEUED_PER_CORE * cores:
                    yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def has_image_extension(place: str) -> bool:
    """Return True for a path with the extension of an image, unless the file is hidden."""
    path = PurePath(place)
    return bool(_EXTENSIONS.fullmatch(path.suffix)) and not path.name.startswith(".")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels of unknown range")
    if image.mode.startswith("I"):  # 16 bits, sometimes stored in 32
        values = np.asarray(image)  # (H, W)
        image = Image.fromarray((values.clip(0, 2**16 - 1) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _has_bytes(file: Path | BinaryIO) -> bool:
    if isinstance(file, Path):
        return file.stat().st_size > 0
    return file.seek(0, os.SEEK_END) > 0
