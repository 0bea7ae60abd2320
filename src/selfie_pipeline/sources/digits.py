"""Source of scikit-learn's handwritten digits: 1,797 images embedded in the library."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from selfie_pipeline.sources.base import RESIZING, Chunk, fit_images, stale_error
from selfie_pipeline.sources.samples import build_sample_table

_MAX_GREY = 16
_TEST_SHARE = 0.3
_SPLIT_SEED = 0


class Digits:
    """Handwritten digits, 8×8 grey levels, as images with three equal channels.

    The library defines no split; this one is fixed and stratified: 1,257 training and 540 test
    samples.
    """

    classes: tuple[str, ...] = tuple(str(digit) for digit in range(10))

    def __init__(self) -> None:
        digits = load_digits()
        self._grey: NDArray[np.uint8] = np.rint(digits.images * (255 / _MAX_GREY)).astype(np.uint8)
        self._labels: NDArray[np.int64] = digits.target.astype(np.int64)

    def samples(self) -> pd.DataFrame:
        """Return the table of samples, in the library's order."""
        rows = np.arange(len(self._labels))
        _, test = train_test_split(
            rows, test_size=_TEST_SHARE, stratify=self._labels, random_state=_SPLIT_SEED
        )
        splits = np.where(np.isin(rows, test), "test", "train").tolist()
        places = [f"load_digits()[{row}]" for row in rows]
        return build_sample_table(splits, self._labels, places, self.classes)

    def fingerprint(self, samples: pd.DataFrame) -> str:
        """Return the SHA-256 over the digits, the table and the way of resizing; see `Source`."""
        if not self.samples().equals(samples):
            raise stale_error("the library's digits have")
        digest = hashlib.sha256(RESIZING + self._grey.tobytes())
        digest.update(samples.to_csv().encode())
        return digest.hexdigest()

    def images(self, samples: pd.DataFrame, canvas_size: int, start: int = 0) -> Iterator[Chunk]:  # noqa: ARG002
        """Return the digits as images with three equal channels; see `Source`."""
        images = np.repeat(self._grey[..., None], 3, axis=-1)  # (1797, 8, 8, 3)
        return fit_images([images], canvas_size, start)
