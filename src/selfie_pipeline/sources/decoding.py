"""Image files of any kind onto the canvas: one, or many on all cores.

Decoding runs in threads: Pillow lets go of Python's lock while it reads, decodes and resizes, and
threads hand images over without copying them and end with their process.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePath
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from selfie_pipeline.sources.base import fit_image

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM")  # none starts a program
_EXTENSIONS = re.compile(r"\.(jpe?g|jpe|jfif|png|webp|bmp|dib|gif|tiff?|p[bgnp]m)", re.IGNORECASE)
NO_IMAGE = "not an image"
_AHEAD = 16  # images a core that may wait to be taken

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class UnreadableImageError(Exception):
    """A file does not give an image; the message is the reason, a few words."""


def decode_file(file: Path | BinaryIO, canvas_size: int) -> NDArray[np.uint8]:
    """Decode an image file, whatever it is called, and fit it to the canvas.

    Any mode becomes RGB: grey, palette and CMYK as Pillow converts them, 16 bits by their higher
    eight, transparency over white. An EXIF orientation is applied. Of several frames it is the
    first. A JPEG of four times the canvas or more is decoded at a fraction of its size, but never
    below twice the canvas, so that the resizing still has pixels to average.

    Args:
        file: A path, or a file opened for reading bytes.
        canvas_size: Side of the result, pixels.

    Returns:
        uint8 of shape (canvas_size, canvas_size, 3).

    Raises:
        UnreadableImageError: The file can't be read, is empty, cut off, damaged, too large, or not
            an image.
    """
    with _no_warnings():
        return _decode(file, canvas_size)


def try_decode(file: Path | BinaryIO, canvas_size: int) -> NDArray[np.uint8] | UnreadableImageError:
    """As `decode_file`, but returning the error; for `in_order`, which silences the warnings."""
    try:
        return _decode(file, canvas_size)
    except UnreadableImageError as error:
        return error


def decode_files(
    paths: Iterable[Path], canvas_size: int
) -> Iterator[NDArray[np.uint8] | UnreadableImageError]:
    """Decode many image files on all cores, in order, with constant memory.

    Args:
        paths: The files.
        canvas_size: Side of the results, pixels.

    Yields:
        For each file what `decode_file` returns, or the error that it raises.
    """
    return in_order(partial(try_decode, canvas_size=canvas_size), paths)


def in_order(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Call a function for each item, in threads on all cores.

    Args:
        function: Called in several threads at once.
        items: Taken as they are needed.

    Yields:
        The results in the items' order; only a few wait to be taken.

    Raises:
        Exception: What the function raises; the calls that wait are dropped.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    waiting: deque[Future[_Result]] = deque()
    with _no_warnings(), ThreadPoolExecutor(cores) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > _AHEAD * cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def claims_to_be_image(place: str) -> bool:
    """Whether a file's name is one that an image would have; hidden files claim nothing."""
    name = PurePath(place)
    return bool(_EXTENSIONS.fullmatch(name.suffix)) and not name.name.startswith(".")


def _decode(file: Path | BinaryIO, canvas_size: int) -> NDArray[np.uint8]:
    try:
        with Image.open(file, formats=_FORMATS) as image:
            image.draft(None, (2 * canvas_size, 2 * canvas_size))  # of JPEG; others ignore it
            image.load()
            with suppress(Exception):  # damaged EXIF; the pixels are whole
                ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(fit_image(_to_rgb(image), canvas_size))
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError(NO_IMAGE if _has_bytes(file) else "empty") from None
    except Image.DecompressionBombError:
        raise UnreadableImageError("more pixels than Pillow takes for honest") from None
    except Exception as error:  # damaged bytes can raise whatever there is
        if isinstance(error, OSError) and error.strerror:
            raise UnreadableImageError(f"can't be read: {error.strerror}") from error
        raise UnreadableImageError(f"damaged: {' '.join(str(error).split())}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels, whose range is not known")
    if image.mode.startswith("I"):  # 16 bits, some of them in 32
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


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silence Pillow where it finds something odd in a file that it can read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
