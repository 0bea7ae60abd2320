"""scikit-learn's handwritten digits: 1,797 images that come with the library."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from selfie_pipeline.sources.base import fit_images
from selfie_pipeline.sources.samples import sample_table

_BRIGHTEST = 16
_TEST_SHARE = 0.3
_SPLIT_SEED = 0


class Digits:
    """Handwritten digits, 8×8 grey levels, drawn on a canvas in three equal channels.

    The library has no split of its own; it is cut once and for all, stratified: 1,257 training
    and 540 test samples.
    """

    classes: tuple[str, ...] = tuple(str(digit) for digit in range(10))

    def __init__(self) -> None:
        digits = load_digits()
        self._grey: NDArray[np.uint8] = np.rint(digits.images * (255 / _BRIGHTEST)).astype(np.uint8)
        self._labels: NDArray[np.int64] = digits.target.astype(np.int64)

    def samples(self) -> pd.DataFrame:
        """The table of samples, in the library's order."""
        rows = np.arange(len(self._labels))
        _, test = train_test_split(
            rows, test_size=_TEST_SHARE, stratify=self._labels, random_state=_SPLIT_SEED
        )
        splits = np.where(np.isin(rows, test), "test", "train").tolist()
        places = [f"load_digits()[{row}]" for row in rows]
        return sample_table(splits, self._labels, places, self.classes)

    def images(self, canvas_size: int) -> Iterator[NDArray[np.uint8]]:
        """The digits, drawn.

        Args:
            canvas_size: Side of the images, pixels.

        Yields:
            uint8 of shape (n, canvas_size, canvas_size, 3), the three channels equal.
        """
        yield from fit_images(np.repeat(self._grey[..., None], 3, axis=-1), canvas_size)

    def fingerprint(self) -> str:
        """SHA-256 over the grey levels, the labels and the split, in hex digits."""
        digest = hashlib.sha256(self._grey.tobytes())
        digest.update(self.samples().to_csv().encode())
        return digest.hexdigest()
