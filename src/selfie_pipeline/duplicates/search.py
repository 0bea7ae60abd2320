"""The search for images that are in both of two splits, as they are or in another version.

No image is compared with all others: hashes that differ in at most ten bits agree in one of four
parts but for two bits, so a table of each part has all candidates (multi-index hashing; Norouzi,
Punjani and Fleet, 2012).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from selfie_pipeline.duplicates.hashing import (
    ImageHashes,
    compare_details,
    digest_images,
    extract_details,
)

DISTANCE = 10
"""Largest number of different bits between the hashes of two versions of a picture."""
SIMILARITY = 0.6
"""Smallest correlation between their details."""
CANDIDATES = 8
"""Number of the closest candidates whose pixels an image is compared with, so that a thousand
frames of one film are not a million pairs."""

_PARTS = 4
_PART_BITS = 16
_FLIPS = np.array(
    [
        sum(1 << bit for bit in bits)
        for size in range(DISTANCE // _PARTS + 1)
        for bits in combinations(range(_PART_BITS), size)
    ],
    dtype=np.uint16,
)
_MOST_HASHES = 1024
"""Number of hashes of a table that a query is compared with at most, beside four times those that
it would find in a table of random ones. Of similar pictures, such as the frames of a fixed camera,
a large share has the same part."""
_QUERIES = 256
"""Number of images that are looked up at once."""
_COMPARED = 128
"""Number of pairs whose pixels are read at once."""

ReadImages = Callable[[NDArray[np.int64]], NDArray[np.uint8]]


def find_originals(codes: NDArray[np.uint64], read: ReadImages) -> NDArray[np.int64]:
    """Find, for each image, the first row with the same pixels; for most images, that is its own.

    Args:
        codes: (n,) uint64; pHash of all images. Only the images that share it are read.
        read: Reads the images of some rows, (n, H, W, 3) uint8.

    Returns:
        (n,) int64.
    """
    shared = np.flatnonzero(pd.Series(codes).duplicated(keep=False))  # (s,)
    digests = np.empty(len(shared), dtype=np.uint64)
    for start in range(0, len(shared), _COMPARED):
        part = slice(start, start + _COMPARED)
        digests[part] = digest_images(read(shared[part]))
    originals = np.arange(len(codes))  # (n,)
    originals[shared] = pd.Series(shared).groupby(digests).transform("first")
    return originals


def find_duplicates(
    hashes: ImageHashes,
    originals: NDArray[np.int64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    read: ReadImages,
) -> pd.DataFrame:
    """Find the images of one split that are also in another.

    Args:
        hashes: Of all n images.
        originals: (n,) int64; of all images, from `find_originals`.
        first: (a,) int64; rows of the images of one split.
        second: (b,) int64; rows of those of the other.
        read: Reads the images of some rows, (k,) int64, as (k, H, W, 3) uint8.

    Returns:
        One row per pair, in the order of `first`: the columns first and second (int64, rows), kind
        ("exact" for equal pixels, or "near"), distance (int64, of the hashes) and similarity (of
        the details; 1 for equal pixels). Of many equal images not all pairs are listed, but each
        image is.
    """
    exact = _pair_equal(originals, first, second)
    detailed = [rows[hashes.detailed[rows]] for rows in (first, second)]
    parts = [_verify(part, read) for part in _find_candidates(hashes.codes, *detailed)]
    near = pd.concat([exact.iloc[:0], *parts])
    near = near[originals[near["first"]] != originals[near["second"]]]
    order = ["first", "kind", "similarity"]
    pairs: pd.DataFrame = pd.concat([exact, near])
    return pairs.sort_values(order, ascending=[True, True, False], ignore_index=True)


def _pair_equal(
    originals: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64]
) -> pd.DataFrame:
    """Pair each image that has equals on the other side with the first of them."""
    sides = [
        pd.DataFrame({"original": originals[rows], name: rows})
        for name, rows in (("first", first), ("second", second))
    ]
    representatives = [side.drop_duplicates("original") for side in sides]
    pairs = pd.concat(
        [
            sides[0].merge(representatives[1], on="original"),
            representatives[0].merge(sides[1], on="original"),
        ]
    )
    pairs = pairs[["first", "second"]].drop_duplicates()
    return pairs.assign(kind="exact", distance=0, similarity=1.0)


def _find_candidates(
    codes: NDArray[np.uint64], first: NDArray[np.int64], second: NDArray[np.int64]
) -> Iterator[pd.DataFrame]:
    """Yield pairs of rows whose hashes are close, those of a few images at a time."""
    earlier = pd.Series(codes[second]).groupby(codes[second]).cumcount()  # with the same hash
    second = second[earlier.to_numpy() < CANDIDATES]
    tables = [_PartTable(codes[second], part) for part in range(_PARTS)]
    for start in range(0, len(first), _QUERIES):
        rows = first[start : start + _QUERIES]
        found = [table.look_up(codes[rows]) for table in tables]
        query, place = np.unique(np.concatenate(found, axis=1), axis=1)  # (pairs,) each
        a, b = rows[query], second[place]
        distance = np.bitwise_count(codes[a] ^ codes[b]).astype(np.int64)
        pairs = pd.DataFrame({"first": a, "second": b, "kind": "near", "distance": distance})
        yield pairs.sort_values(["first", "distance", "second"]).groupby("first").head(CANDIDATES)


class _PartTable:
    """The places of hashes by one of their parts."""

    def __init__(self, codes: NDArray[np.uint64], part: int) -> None:
        self._codes, self._part = codes, part
        keys = self._get_part(codes)  # (n,)
        self._order = np.argsort(keys, kind="stable")
        self._starts = np.searchsorted(keys[self._order], np.arange(2**_PART_BITS + 1))

    def look_up(self, queries: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the places of the close hashes that share a part with a query but for two bits.

        Of a query that shares it with thousands, some are left out.

        Returns:
            (2, pairs), int64: indices into the queries, and into the hashes of the table.
        """
        keys = self._get_part(queries)[:, None] ^ _FLIPS  # (q, flips)
        starts = self._starts[keys]  # (q, flips)
        stops = self._starts[keys.astype(np.int64) + 1]  # (q, flips)
        counts = stops - starts  # (q, flips), those with the fewest flipped bits first
        most = _MOST_HASHES + 4 * len(self._order) * len(_FLIPS) // 2**_PART_BITS
        counts = np.clip(most - (counts.cumsum(axis=1) - counts), 0, counts).ravel()  # (q · flips,)
        query = np.repeat(np.arange(keys.size) // len(_FLIPS), counts)  # (candidates,)
        before = np.cumsum(counts) - counts  # (q · flips,)
        within = np.arange(counts.sum()) - np.repeat(before, counts)  # (candidates,)
        place = self._order[np.repeat(starts.ravel(), counts) + within]  # (candidates,)
        close = np.bitwise_count(queries[query] ^ self._codes[place]) <= DISTANCE
        return np.stack([query[close], place[close]])  # (2, pairs)

    def _get_part(self, codes: NDArray[np.uint64]) -> NDArray[np.uint16]:
        return (codes >> np.uint64(_PART_BITS * self._part)).astype(np.uint16)


def _verify(pairs: pd.DataFrame, read: ReadImages) -> pd.DataFrame:
    """Return the pairs with similar details, and their similarity."""
    similarity = [np.empty(0, dtype=np.float32)]
    for start in range(0, len(pairs), _COMPARED):
        part = pairs[["first", "second"]].to_numpy()[start : start + _COMPARED]  # (n, 2)
        rows, places = np.unique(part, return_inverse=True)  # each image is read once
        details = extract_details(read(rows))[places.reshape(part.shape)]  # (n, 2, 32, 17)
        similarity.append(compare_details(details[:, 0], details[:, 1]))
    pairs = pairs.assign(similarity=np.concatenate(similarity))
    return pairs[pairs["similarity"] >= SIMILARITY]
