"""What every data set offers, and how an image comes onto the canvas."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageOps

from selfie_pipeline.config import UserError

CHUNK_BYTES = 2 * 2**20
"""Most bytes of pixels that a source hands over at once; so few that caches hold them."""


class Chunk(NamedTuple):
    """Some samples' images, one after another.

    Attributes:
        images: (n, canvas_size, canvas_size, 3), uint8, red, green, blue; n is at least 1 and
            different from chunk to chunk.
        unreadable: Why a sample's file gave no image, by the sample; its pixels are zero.
    """

    images: NDArray[np.uint8]
    unreadable: Mapping[int, str]


class Source(Protocol):
    """A data set: a table of samples, and their images in the same order."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is a place in this tuple."""

    def samples(self) -> pd.DataFrame:
        """The table of samples, as `samples.sample_table` makes it; there may be more columns.

        Raises:
            UserError: The data set is damaged; the message names the file.
        """
        ...

    def fingerprint(self, samples: pd.DataFrame) -> str:
        """SHA-256 in hex digits; equal for equal files and an equal table of samples.

        Args:
            samples: As `samples` made it, now or earlier.

        Raises:
            UserError: The files are not those that were listed, as far as can be told without
                reading all of them.
        """
        ...

    def images(self, samples: pd.DataFrame, canvas_size: int, start: int = 0) -> Iterator[Chunk]:
        """The images in the table's order, with constant memory.

        Args:
            samples: As `samples` made it, now or earlier.
            canvas_size: Side of the images, pixels.
            start: The first sample to read.

        Yields:
            Chunks, from `start` to the last sample.

        Raises:
            UserError: The data set is damaged, or has changed since it was listed; the message
                names the file.
        """
        ...


def changed(what: str = "the raw files have") -> UserError:
    """The error that something is not as it was when the samples were listed."""
    return UserError(
        f"{what} changed since the samples were listed; run `kedro run --pipeline=ingest`"
    )


def fit_image(image: Image.Image, canvas_size: int) -> Image.Image:
    """Fit an image of any size to the canvas.

    The shorter side is resized to the canvas (bicubic, antialiased), the longer one is cropped at
    the centre. An image that has the size already keeps its pixels.

    Args:
        image: The image.
        canvas_size: Side of the result, pixels.

    Returns:
        A square image of the same mode.
    """
    return ImageOps.fit(image, (canvas_size, canvas_size), Image.Resampling.BICUBIC)


def fit_images(
    parts: Iterable[NDArray[np.uint8]], canvas_size: int, start: int = 0
) -> Iterator[Chunk]:
    """Fit arrays of images to the canvas, `CHUNK_BYTES` at a time.

    Args:
        parts: uint8 of shape (n, height, width, 3) each; may be views. No two of an iterator's are
            held at once.
        canvas_size: Side of the results, pixels.
        start: How many images to leave out at the beginning.

    Yields:
        Chunks of contiguous images, in order.
    """
    for part in parts:
        yield from _fit_part(part[start:], canvas_size)
        start = max(0, start - len(part))
        del part  # else it would stay while the next is read


def _fit_part(images: NDArray[np.uint8], canvas_size: int) -> Iterator[Chunk]:
    step = max(1, CHUNK_BYTES // (3 * canvas_size**2))
    fits = images.shape[1:3] == (canvas_size, canvas_size)
    for first in range(0, len(images), step):
        chunk = images[first : first + step]  # (m, height, width, 3)
        if fits:
            yield Chunk(np.ascontiguousarray(chunk), {})
        else:
            fitted = [np.asarray(fit_image(Image.fromarray(image), canvas_size)) for image in chunk]
            yield Chunk(np.stack(fitted), {})  # (m, canvas_size, canvas_size, 3)


def digest_files(paths: Iterable[Path]) -> str:
    """SHA-256 over the files' bytes, in hex digits; it depends on their order, not their names."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
