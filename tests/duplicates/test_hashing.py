"""Tests of the hashes and of the comparison of details."""

from __future__ import annotations

import imagehash
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from selfie_pipeline.duplicates.hashing import (
    compare_details,
    digest_images,
    extract_details,
    hash_images,
)

PHOTOGRAPHS = [Image.fromarray(photograph) for photograph in load_sample_images().images]


def crop(photograph: Image.Image, side: int = 64, box: tuple[int, int] = (0, 0)) -> Image.Image:
    """Cut a square out of a photograph, and resize it."""
    x, y = box
    return photograph.crop((x, y, x + 400, y + 400)).resize((side, side), Image.Resampling.BICUBIC)


def stack(*images: Image.Image) -> NDArray[np.uint8]:
    return np.stack([np.asarray(image.convert("RGB")) for image in images])


def compare(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    return compare_details(extract_details(first), extract_details(second))


def count_bits(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> list[int]:
    counts: list[int] = np.bitwise_count(first ^ second).tolist()
    return counts


@pytest.mark.parametrize(
    ("side", "most_bits"), [(32, 0), (64, 2), (100, 2)], ids=["as it is", "64", "100"]
)
def test_the_perceptual_hash_is_that_of_imagehash_but_for_resizing(
    side: int, most_bits: int
) -> None:
    crops = [crop(p, side, (x, x // 10)) for p in PHOTOGRAPHS for x in range(0, 240, 20)]
    theirs = np.stack([imagehash.phash(image).hash.ravel() for image in crops])
    codes = np.packbits(theirs, axis=1).view(np.uint64)[:, 0]
    assert max(count_bits(hash_images(stack(*crops)).codes, codes)) <= most_bits


def test_digests_are_equal_for_equal_pixels_only() -> None:
    image = stack(crop(PHOTOGRAPHS[0]))[0]
    other = image.copy()
    other[5, 5, 0] ^= 1
    first, again, changed = digest_images(np.stack([image, image, other]))
    assert first == again != changed


def test_a_hash_depends_on_its_image_alone() -> None:
    images = stack(*(crop(PHOTOGRAPHS[0], box=(x, 0)) for x in (0, 50, 100)))
    together = hash_images(images)
    alone = [hash_images(images[row : row + 1]) for row in range(3)]
    for name, values in together._asdict().items():
        assert values.tolist() == [getattr(hashes, name)[0] for hashes in alone]


def test_versions_of_a_picture_are_close_in_hash_and_details() -> None:
    original = crop(PHOTOGRAPHS[0])
    grey, brighter = (
        ImageOps.grayscale(original),
        original.point(lambda value: min(255, value + 20)),
    )
    smaller = original.resize((40, 40)).resize((64, 64))
    shifted = crop(PHOTOGRAPHS[0], box=(10, 0))
    versions = stack(grey, brighter, smaller, shifted)
    originals = stack(*[original] * 4)
    assert max(count_bits(hash_images(versions).codes, hash_images(originals).codes)) <= 10
    assert compare(originals, versions).min() > 0.8


def test_details_tell_pictures_of_one_layout_apart() -> None:
    """Blurred versions differ in their details, whatever their hash."""
    original = stack(crop(PHOTOGRAPHS[0], 32))
    coarse = stack(crop(PHOTOGRAPHS[0], 8).resize((32, 32), Image.Resampling.BICUBIC))
    noise = np.random.default_rng(0).normal(0, 20, coarse.shape)
    other = np.clip(coarse + noise, 0, 255).astype(np.uint8)
    assert count_bits(hash_images(original).codes, hash_images(other).codes)[0] <= 10
    assert compare(original, other)[0] < 0.5


def test_details_of_equal_images_correlate_by_one() -> None:
    image = stack(crop(PHOTOGRAPHS[1]))
    assert compare(image, image) == pytest.approx(1)


def test_flat_and_coarse_images_have_no_details() -> None:
    flat = np.full((64, 64, 3), 200, dtype=np.uint8)
    coarse = stack(crop(PHOTOGRAPHS[0], 4).resize((64, 64), Image.Resampling.BICUBIC))[0]
    fine = stack(crop(PHOTOGRAPHS[0]))[0]
    hashes = hash_images(np.stack([flat, coarse, fine]))
    assert hashes.detailed.tolist() == [False, False, True]
    assert compare(flat[None], flat[None]) == pytest.approx(0)
