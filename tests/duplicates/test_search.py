"""Tests of the search for images in two splits."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from selfie_pipeline.duplicates import search
from selfie_pipeline.duplicates.hashing import ImageHashes, hash_images
from selfie_pipeline.duplicates.search import CANDIDATES, DISTANCE, find_duplicates, find_originals

PHOTOGRAPH = Image.fromarray(load_sample_images().images[0])


def window(x: int, y: int = 0) -> NDArray[np.uint8]:
    """Cut a square out of a photograph."""
    return np.asarray(PHOTOGRAPH.crop((x, y, x + 64, y + 64)))


def find_all_duplicates(
    images: NDArray[np.uint8], first: NDArray[np.int64], second: NDArray[np.int64]
) -> pd.DataFrame:
    hashes = hash_images(images)
    originals = find_originals(hashes.codes, lambda rows: images[rows])
    return find_duplicates(hashes, originals, first, second, lambda rows: images[rows])


def search_images(
    first: list[NDArray[np.uint8]], second: list[NDArray[np.uint8]]
) -> list[tuple[int, int, str]]:
    """Return the pairs found among images, counted from 0 on each side."""
    images = np.stack([*first, *second])
    a, b = np.split(np.arange(len(images)), [len(first)])
    found = find_all_duplicates(images, a, b)
    return [(one, two - len(first), kind) for one, two, kind, *_ in found.itertuples(index=False)]


def far_apart(count: int) -> list[NDArray[np.uint8]]:
    """Return images of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    return list(noise)


def test_equal_and_similar_images_are_found_and_no_others() -> None:
    noise = far_apart(6)
    changed = noise[0].copy()
    changed[3, 3] = 0
    first = [window(0), noise[0], window(200, 100), noise[1]]
    second = [noise[2], window(0), noise[3], window(201, 100), changed, noise[4]]
    assert search_images(first, second) == [(0, 1, "exact"), (1, 4, "near"), (2, 3, "near")]


def test_the_original_of_an_image_is_the_first_with_its_pixels() -> None:
    noise = far_apart(2)
    changed = noise[0].copy()
    changed[3, 3, 0] ^= 1
    images = np.stack([noise[1], noise[0], changed, noise[0], noise[0]])
    codes = hash_images(images).codes
    assert codes[1] == codes[2]  # or the pixels would not be compared
    read: list[int] = []

    def read_images(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        read.extend(rows.tolist())
        return images[rows]

    assert find_originals(codes, read_images).tolist() == [0, 1, 2, 1, 1]
    assert read == [1, 2, 3, 4]


def test_many_images_of_one_hash_are_read_a_few_at_a_time() -> None:
    def read_images(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        assert len(rows) <= 128
        return np.broadcast_to(
            (rows % 7).astype(np.uint8)[:, None, None, None], (len(rows), 8, 8, 3)
        )

    originals = find_originals(np.zeros(300, dtype=np.uint64), read_images)
    assert originals.tolist() == [row % 7 for row in range(300)]


def test_every_equal_image_is_found_but_not_every_pair() -> None:
    image = window(0)
    found = search_images([image] * 5, [image] * 300)
    assert {one for one, _, _ in found} == set(range(5))
    assert {two for _, two, _ in found} == set(range(300))
    assert {kind for _, _, kind in found} == {"exact"}
    assert len(found) == 5 + 299


def test_an_image_is_compared_with_few_of_many_similar_ones() -> None:
    frames = []
    for value in range(40):
        frame = window(0).copy()
        frame[0, 0] = value
        frames.append(frame)
    found = search_images(frames[:10], frames[10:])
    assert {one for one, _, _ in found} == set(range(10))
    assert len(found) == 10 * CANDIDATES


def test_images_without_details_are_found_by_their_pixels_only() -> None:
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None], (64, 64, 3))
    nearly = ramp.copy()
    nearly[0, 0] = 9
    assert search_images([ramp, nearly], [ramp]) == [(0, 0, "exact")]


@pytest.mark.parametrize("sides", [(0, 3), (3, 0), (0, 0)])
def test_an_empty_side_has_no_duplicates(sides: tuple[int, int]) -> None:
    images = np.stack(far_apart(3))
    rows = np.arange(3)
    found = find_all_duplicates(images, rows[: sides[0]], rows[: sides[1]])
    assert len(found) == 0
    assert list(found) == ["first", "second", "kind", "distance", "similarity"]


def random_codes(count: int) -> NDArray[np.uint64]:
    return np.random.default_rng(1).integers(0, 2**64, count, dtype=np.uint64)


def flip_bits(codes: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    """Flip as many different bits of each code."""
    random = np.random.default_rng(bits)
    places = np.argsort(random.random((len(codes), 64)), axis=1)[:, :bits].astype(np.uint64)
    return codes ^ (np.uint64(1) << places).sum(axis=1, dtype=np.uint64)


def candidates(codes: NDArray[np.uint64], first: int) -> pd.DataFrame:
    rows = np.arange(len(codes))
    return pd.concat(search._find_candidates(codes, rows[:first], rows[first:]), ignore_index=True)


@pytest.mark.parametrize("bits", range(DISTANCE + 3))
def test_candidates_are_those_within_the_distance(bits: int) -> None:
    """Random hashes are about 32 bits apart, so that no other pair is close."""
    codes = random_codes(600)
    found = candidates(np.concatenate([codes, flip_bits(codes, bits)]), 600)
    if bits > DISTANCE:
        assert found.empty
    else:
        assert (found["second"] - found["first"] == 600).all()
        assert len(found) == 600
        assert (found["distance"] == bits).all()


def test_similar_pictures_need_little_memory_and_each_is_found() -> None:
    """The frames of a fixed camera, whose hashes differ in few bits."""
    scene = np.full(12_256, random_codes(1)[0])
    codes = flip_bits(scene, 4)
    tracemalloc.start()
    found = candidates(codes, 256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert found["first"].nunique() == 256
    assert peak < 150 * 2**20


def test_the_search_needs_little_memory_and_looks_at_few() -> None:
    codes = random_codes(60_000)
    detailed = np.ones(len(codes), dtype=bool)
    hashes = ImageHashes(codes, detailed)
    rows = np.arange(len(codes))
    compared = []

    def read_flat(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        compared.extend(rows)
        return np.zeros((len(rows), 32, 32, 3), dtype=np.uint8)

    tracemalloc.start()
    originals = find_originals(codes, read_flat)
    found = find_duplicates(hashes, originals, rows[:10_000], rows[10_000:], read_flat)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.empty
    assert len(compared) < 100  # of 500 million pairs, those that are close by chance
    assert peak < 40 * 2**20
