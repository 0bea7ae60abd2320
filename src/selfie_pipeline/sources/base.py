"""The interface of all data sources, and the fitting of images to the canvas."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from selfie_pipeline.config import UserError
from selfie_pipeline.printable import shorten

CHUNK_BYTES = 2 * 2**20
"""Maximum bytes of pixels per chunk, which fit into a CPU cache."""
RESIZING = b"bicubic, torch"
"""Part of the fingerprint of resized images, because another algorithm gives other pixels."""


class Chunk(NamedTuple):
    """The images of consecutive samples.

    Attributes:
        images: RGB images, uint8 of shape (n, canvas_size, canvas_size, 3); n is at least 1 and
            varies between chunks.
        unreadable: Reasons of the samples whose files are unreadable, by sample; their pixels are
            zero.
    """

    images: NDArray[np.uint8]
    unreadable: Mapping[int, str]


class Source(Protocol):
    """A data set: a table of samples, and their images in the same order."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into this tuple."""

    def samples(self) -> pd.DataFrame:
        """Return the table of samples as by `build_sample_table`, perhaps with more columns.

        Raises:
            UserError: The data set is damaged; the message names the file.
        """
        ...

    def fingerprint(self, samples: pd.DataFrame) -> str:
        """Return a SHA-256 in hex digits, equal for equal files and an equal table of samples.

        Args:
            samples: Table returned by `samples`, now or earlier.

        Raises:
            UserError: The files differ from the listed ones, as far as can be determined without
                reading all of them.
        """
        ...

    def images(self, samples: pd.DataFrame, canvas_size: int, start: int = 0) -> Iterator[Chunk]:
        """Read the images in the order of the table, with constant memory.

        Args:
            samples: Table returned by `samples`, now or earlier.
            canvas_size: Side of the images, pixels.
            start: First sample to read.

        Yields:
            Chunks, from `start` to the last sample.

        Raises:
            UserError: The data set is damaged, or has changed since it was listed; the message
                names the file.
        """
        ...


def stale_error(subject: str = "the raw files have") -> UserError:
    """Build the error for files that have changed since the samples were listed."""
    return UserError(
        f"{subject} changed since the samples were listed; run `kedro run --pipeline=ingest`"
    )


def damaged_error(path: Path, reason: object) -> UserError:
    """Build the error for a damaged file, or one that the system refused to read, in one line."""
    if isinstance(reason, OSError) and reason.strerror:
        return UserError(f"{path} can't be read: {reason.strerror}")
    reason = shorten(" ".join(str(reason).split()))
    return UserError(f"{path} is damaged: {reason}; replace it with an intact copy")


def fit_image(image: NDArray[np.uint8], canvas_size: int) -> NDArray[np.uint8]:
    """Fit an image of any size to the canvas.

    The longer side is cropped at the centre, and the square is resized (bicubic, antialiased). An
    image that already has this size keeps its pixels. torch resizes several times faster than
    Pillow, and to the same values but for the rounding of a few (docs/results/benchmarks).

    Args:
        image: (height, width, C), RGB or grey.
        canvas_size: Side of the result, S, pixels.

    Returns:
        (S, S, C); if it was resized, each channel is a plane in memory, as in patches.
    """
    height, width, _ = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]  # (side, side, C)
    if side == canvas_size:
        return np.ascontiguousarray(square)
    import torch  # noqa: PLC0415  (seconds to import)

    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)  # (C, side, side)
    resized = torch.nn.functional.interpolate(
        pixels[None], (canvas_size, canvas_size), mode="bicubic", antialias=True
    )  # (1, C, S, S)
    planes: NDArray[np.uint8] = resized[0].numpy()  # (C, S, S)
    return planes.transpose(1, 2, 0)  # (S, S, C)


def fit_images(
    parts: Iterable[NDArray[np.uint8]], canvas_size: int, start: int = 0
) -> Iterator[Chunk]:
    """Fit arrays of images to the canvas, `CHUNK_BYTES` at a time.

    Args:
        parts: Arrays or views, uint8 of shape (n, height, width, 3); only one is kept at a time.
        canvas_size: Side of the results, pixels.
        start: Number of images to skip.

    Yields:
        Chunks of contiguous images, in order.
    """
    step = max(1, CHUNK_BYTES // (3 * canvas_size**2))
    for part in parts:
        fits = part.shape[1:3] == (canvas_size, canvas_size)
        for first in range(start, len(part), step):
            images = part[first : first + step]  # (m, height, width, 3)
            if fits:
                yield Chunk(np.ascontiguousarray(images), {})
            else:
                fitted = [fit_image(image, canvas_size) for image in images]
                yield Chunk(np.stack(fitted), {})  # (m, canvas_size, canvas_size, 3)
            del images
        start = max(0, start - len(part))
        del part  # before the next one is read


def digest_files(paths: Iterable[Path]) -> str:
    """Return the SHA-256 over the bytes of readable files in this order, in hex digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
