"""What every data set offers, and how an image comes onto the canvas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageOps

CHUNK_BYTES = 32 * 2**20
"""Most bytes of pixels that a source hands over at once."""


class Source(Protocol):
    """A data set: a table of samples, and their images in the same order."""

    classes: tuple[str, ...]
    """Class names; a label is a place in this tuple."""

    def samples(self) -> pd.DataFrame:
        """The table of samples, as `samples.sample_table` makes it.

        Raises:
            UserError: A file is damaged; the message names it.
        """
        ...

    def images(self, canvas_size: int) -> Iterator[NDArray[np.uint8]]:
        """The images in the table's order, in chunks, with constant memory.

        Args:
            canvas_size: Side of the images, pixels.

        Yields:
            uint8 of shape (n, canvas_size, canvas_size, 3), n at least 1 and different from chunk
            to chunk.

        Raises:
            UserError: A file is damaged; the message names it.
        """
        ...

    def fingerprint(self) -> str:
        """SHA-256 in hex digits; equal for equal pixels and an equal table of samples."""
        ...


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


def fit_images(images: NDArray[np.uint8], canvas_size: int) -> Iterator[NDArray[np.uint8]]:
    """Fit images of one size to the canvas, `CHUNK_BYTES` at a time.

    Args:
        images: uint8 of shape (n, height, width, 3); may be a view.
        canvas_size: Side of the results, pixels.

    Yields:
        uint8 of shape (m, canvas_size, canvas_size, 3), contiguous; together all n, in order.
    """
    step = max(1, CHUNK_BYTES // (3 * canvas_size**2))
    fits = images.shape[1:3] == (canvas_size, canvas_size)
    for start in range(0, len(images), step):
        chunk = images[start : start + step]
        if fits:
            yield np.ascontiguousarray(chunk)
        else:
            yield np.stack(
                [np.asarray(fit_image(Image.fromarray(image), canvas_size)) for image in chunk]
            )
