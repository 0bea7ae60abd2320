"""scikit-learn's handwritten digits: 1,797 images that come with the library."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from selfie_pipeline.sources.base import Chunk, changed, fit_images
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

    def fingerprint(self, samples: pd.DataFrame) -> str:
        """SHA-256 over the grey levels, the labels and the split, in hex digits.

        Raises:
            UserError: The samples are not this version's of the library.
        """
        if not self.samples().equals(samples):
            raise changed("the library's digits have")
        digest = hashlib.sha256(self._grey.tobytes())
        digest.update(samples.to_csv().encode())
        return digest.hexdigest()

    def images(
        self,
        samples: pd.DataFrame,  # noqa: ARG002
        canvas_size: int,
        start: int = 0,
    ) -> Iterator[Chunk]:
        """The digits, drawn; the three channels are equal."""
        drawn = np.repeat(self._grey[..., None], 3, axis=-1)  # (1797, 8, 8, 3)
        yield from fit_images([drawn], canvas_size, start)
