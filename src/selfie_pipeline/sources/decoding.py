"""Decodes image files of any format and fits them to the canvas, on all cores.

Decoding runs in threads, because Pillow and torch release the GIL while they read, decode and
resize, and threads pass images on without copying them. Small files, of which it is hardly ever
released for long, are decoded by one thread at a time.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from itertools import chain, islice
from pathlib import Path, PurePath
from typing import BinaryIO, TypeVar

import joblib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError, features

from selfie_pipeline.extras import install_extra
from selfie_pipeline.sources.base import CHUNK_BYTES, Chunk, fit_image
from selfie_pipeline.threads import torch_threads

logger = logging.getLogger(__name__)

# None of these formats runs a program.
_FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF"]
_EXTENSIONS = re.compile(
    r"\.(jpe?g|jpe|jfif|png|webp|bmp|dib|gif|tiff?|p[bgnp]m|avif|hei[cf])", re.IGNORECASE
)
_REMEDIES: dict[bytes, str] = {}
"""The reason that a file of this brand (bytes 8 to 11 of an ISO media file) can't be decoded."""

try:
    from pillow_heif import register_heif_opener
except ImportError:
    _REMEDIES |= dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
        f"is HEIC; to read it: {install_extra('heif')}",
    )
else:
    register_heif_opener()
    _FORMATS.append("HEIF")
_BRANDS = {".heic": b"heic", ".heif": b"heic", ".avif": b"avif"}
"""A brand of the files with each extension that may lack a decoder."""
if not features.check("avif"):
    _REMEDIES |= dict.fromkeys(
        (b"avif", b"avis"), "is AVIF; install a Pillow that decodes it: pip install -U pillow"
    )

NOT_AN_IMAGE = "not an image"
EMPTY = "empty"
_UNDECODABLE = re.compile(r"is (HEIC|AVIF); ")
"""Beginning of the reasons in `_REMEDIES`, whatever is installed."""
REFUSED = "can't be read: "
"""Beginning of the reason that the system refused to read a file; another time it may not."""
_MOST_PIXELS = 89_478_485
"""Largest number of pixels, Pillow's `MAX_IMAGE_PIXELS`; decoding takes up to 16 bytes for each."""
_MOST_OPAQUE_PIXELS = 150_000_000
"""Largest number for grey and RGB PNGs without transparency; decoding takes up to 8 bytes each."""
_MOST_COPIED_PIXELS = 2**24
"""Largest number for torch, which resizes faster than Pillow but needs copies of 9 bytes each."""
_DARK = 2**14 - 1
"""Largest value of an image of 16 bits that makes use of 14 only."""
_QUEUED_PER_CORE = 4
"""Number of results that may wait for each core; few, because one may be a batch of images."""
_BATCH_BYTES = 2**16
"""Size of the files that one call of a thread reads together, unless there are too many."""
_BATCH_FILES = 16
_SMALL_BYTES = 2**12
"""Mean size of files below which two threads decode no more than one (docs/results/benchmarks)."""
SMALL_FILES_TURN = threading.Lock()
"""Held while small files are decoded. Nearly all of that happens under Python's lock, which is
released and taken back several times for each file: two threads need twice the time of one."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class UnreadableImageError(Exception):
    """An image file can't be decoded; the message is the reason in a few words."""


def decode_file(file: Path | BinaryIO, canvas_size: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Decode an image file, whatever its name, and fit it to the canvas.

    Any mode becomes RGB: grey, palette and CMYK by Pillow's conversion, 16 bits by their higher
    eight, transparency over white. EXIF orientation is applied. Of several frames, the first is
    used. A JPEG of four times the canvas or more is decoded at a fraction of its size, but at least
    at twice the canvas, so that resizing still averages pixels.

    Args:
        file: A path, or a file opened for reading bytes.
        canvas_size: Side of the result, pixels.

    Returns:
        The image, uint8 of shape (canvas_size, canvas_size, 3), and its oddities, for
        `log_oddities`: "several frames" if the file has more of them; "dark" if it has 16 bits, of
        which it uses the lowest quarter of the range at most.

    Raises:
        UnreadableImageError: The file can't be read, is empty, cut off, damaged, too large, or not
            an image.
    """
    try:
        with Image.open(file, formats=_FORMATS) as image:
            image.draft(None, (2 * canvas_size, 2 * canvas_size))  # ignored by all but JPEG
            _check_size(image)
            image.load()
            _check_size(image)  # transparency may be declared behind the pixels
            tests = {"several frames": _has_more_frames, "dark": _is_dark}
            oddities = [name for name, test in tests.items() if test(image)]
            with suppress(Exception):  # damaged EXIF with intact pixels
                ImageOps.exif_transpose(image, in_place=True)
            return _fit_to_canvas(_to_rgb(image), canvas_size), oddities
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError(_explain_unidentified(file)) from None
    except Image.DecompressionBombError:
        raise UnreadableImageError(f"more than {_MOST_PIXELS:,} pixels") from None
    except Exception as error:  # damaged files can raise any exception
        if isinstance(error, OSError) and error.strerror:
            raise UnreadableImageError(f"{REFUSED}{error.strerror}") from error
        raise UnreadableImageError(f"damaged: {' '.join(str(error).split())}") from error


def decode_chunks(
    files: Iterable[tuple[_Item, int]],
    load: Callable[[_Item], BinaryIO],
    canvas_size: int,
    start: int = 0,
) -> Iterator[Chunk]:
    """Decode files on all cores; log how many have several frames or unused bits.

    Args:
        files: Items of any type with the sizes of their files in bytes, consumed as needed.
        load: Returns an item's file, which is closed after it is decoded, or raises
            UnreadableImageError; called in several threads.
        canvas_size: Side of the images, pixels.
        start: Sample of the first file.

    Yields:
        Chunks of consecutive samples.

    Raises:
        Exception: Any other exception of `load`, or of iterating over the files.
    """

    def read(item: _Item) -> BinaryIO | UnreadableImageError:
        try:
            return load(item)
        except UnreadableImageError as error:
            return error

    def decode(file: BinaryIO) -> tuple[NDArray[np.uint8], list[str]] | UnreadableImageError:
        try:
            with file:
                return decode_file(file, canvas_size)
        except UnreadableImageError as error:
            return error

    def decode_batch(
        batch: list[tuple[_Item, int]],
    ) -> list[tuple[NDArray[np.uint8], list[str]] | UnreadableImageError]:
        loaded = [read(item) for item, _ in batch]  # in parallel, because the storage may be slow
        small = are_small([size for _, size in batch])
        with SMALL_FILES_TURN if small else nullcontext():
            return [
                file if isinstance(file, UnreadableImageError) else decode(file) for file in loaded
            ]

    decoded = chain.from_iterable(map_ordered(decode_batch, batch_files(files)))
    step = max(1, CHUNK_BYTES // (3 * canvas_size**2))
    oddities: Counter[str] = Counter()
    with torch_threads(1):  # threads that share the resizing of an image wait for each other
        while results := list(islice(decoded, step)):
            planes = np.zeros((len(results), 3, canvas_size, canvas_size), dtype=np.uint8)
            images = planes.transpose(0, 2, 3, 1)  # (n, H, W, C)
            unreadable = {}
            for row, result in enumerate(results):
                if isinstance(result, UnreadableImageError):
                    unreadable[start + row] = str(result)
                else:
                    images[row], odd = result
                    oddities.update(odd)
            yield Chunk(images, unreadable)
            start += len(results)
    log_oddities(oddities)


def log_oddities(oddities: Counter[str]) -> None:
    """Log how many images have several frames or unused bits; see `decode_file`."""
    if several_frames := oddities["several frames"]:
        logger.info("%d images have several frames or pages: the first is used", several_frames)
    if dark := oddities["dark"]:
        logger.warning(
            "%d images of 16 bits have no value above %d, so they become dark: the higher eight "
            "bits are used; scale the values of images of 10, 12 or 14 bits to 65535 first",
            dark,
            _DARK,
        )


def map_files(
    function: Callable[[_Item], _Result], files: Iterable[tuple[_Item, int]]
) -> Iterator[_Result]:
    """Map a function that reads a file over files, as `map_ordered` does; small ones in batches.

    Args:
        function: Called in several threads at once.
        files: Items with the sizes of their files in bytes, consumed as needed.

    Yields:
        The results in the order of the files.

    Raises:
        Exception: Any exception of the function; queued calls are cancelled.
    """

    def read(batch: list[tuple[_Item, int]]) -> list[_Result]:
        return [function(item) for item, _ in batch]

    return chain.from_iterable(map_ordered(read, batch_files(files)))


def are_small(sizes: Collection[int]) -> bool:
    """Return whether files of these sizes, in bytes, are to be decoded with `SMALL_FILES_TURN`."""
    return sum(sizes) < _SMALL_BYTES * len(sizes)


def batch_files(
    files: Iterable[tuple[_Item, int]],
    most_bytes: int = _BATCH_BYTES,
    most_files: int = _BATCH_FILES,
) -> Iterator[list[tuple[_Item, int]]]:
    """Put files together, so that a call for a batch of small ones costs little.

    Args:
        files: Items with the sizes of their files in bytes, consumed as needed.
        most_bytes: A batch ends with the file that reaches this size in total.
        most_files: Largest number of files in a batch.

    Yields:
        Batches of consecutive files, with their sizes.
    """
    batch: list[tuple[_Item, int]] = []
    total = 0
    for item, size in files:
        batch.append((item, size))
        total += size
        if total >= most_bytes or len(batch) == most_files:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


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
    cores = joblib.cpu_count()  # that this process may use, also in a container
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


def _check_size(image: Image.Image) -> None:
    """Refuse an image that might fill the memory; Pillow only warns up to twice as many pixels."""
    opaque = image.mode in {"L", "RGB"} and not image.has_transparency_data
    most = _MOST_OPAQUE_PIXELS if image.format == "PNG" and opaque else _MOST_PIXELS
    if image.width * image.height > most:
        raise UnreadableImageError(f"more than {most:,} pixels")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels of unknown range")
    if image.mode.startswith("I"):  # 16 bits, sometimes stored in 32
        values = np.array(image)  # (H, W)
        level = image.info.get("transparency")
        transparent = slice(0) if level is None else values == level  # none, or (H, W)
        values.clip(0, 2**16 - 1, out=values)
        values >>= 8  # in place, because large images have little room
        values[transparent] = 255  # white
        image = Image.fromarray(values.astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _fit_to_canvas(image: Image.Image, canvas_size: int) -> NDArray[np.uint8]:
    if image.width * image.height <= _MOST_COPIED_PIXELS:
        return fit_image(np.asarray(image), canvas_size)
    return np.asarray(ImageOps.fit(image, (canvas_size, canvas_size), Image.Resampling.BICUBIC))


def _has_more_frames(image: Image.Image) -> bool:
    """Return True for an animation or a document of several pages.

    A photograph with a preview or a depth map beside it (MPO) is neither.
    """
    with suppress(Exception):  # damage behind an intact first frame
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    return False


def _is_dark(image: Image.Image) -> bool:
    """Return True for an image of 16 bits that has small values only."""
    if image.mode.startswith("I"):
        with suppress(Exception):  # modes whose values Pillow can't look through
            largest = image.getextrema()[1]
            return isinstance(largest, int | float) and largest <= _DARK
    return False


def _explain_unidentified(file: Path | BinaryIO) -> str:
    """Return the reason that a file is in no known format."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            head = opened.read(12)
    else:
        file.seek(0)
        head = file.read(12)
    if not head:
        return EMPTY
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    return _REMEDIES.get(brand, NOT_AN_IMAGE)


def find_missing_decoders(places: Iterable[str]) -> bytes:
    """Return the file extensions among these whose decoder is missing, each once; empty for none.

    They are a part of fingerprints: with the decoder, these files are images. Files with another
    extension, and rows of Parquet files, are not opened to find out what they are.
    """
    undecodable = {name for name, brand in _BRANDS.items() if brand in _REMEDIES}
    if not undecodable:
        return b""
    return " ".join(sorted(undecodable & {os.path.splitext(p)[1].lower() for p in places})).encode()


def may_be_readable_now(reason: str) -> bool:
    """Return whether a file that was unreadable for this reason may be readable now.

    It may if the system refused it, or if its decoder was missing and is installed now.
    """
    return reason.startswith(REFUSED) or (
        _UNDECODABLE.match(reason) is not None and reason not in _REMEDIES.values()
    )
