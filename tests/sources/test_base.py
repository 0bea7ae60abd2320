"""Tests of fitting images to the canvas."""

import weakref

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from selfie_pipeline.sources import base


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def fitted(images, canvas_size):
    return np.concatenate([chunk.images for chunk in base.fit_images([images], canvas_size)])


def test_an_image_that_fits_keeps_its_pixels():
    image = noise(32, 32, 3)

    assert np.array_equal(base.fit_image(image, 32), image)


@pytest.mark.parametrize(("height", "width"), [(20, 60), (60, 20)])
def test_the_longer_side_is_cropped_at_the_centre(height, width):
    image = noise(height, width, 3)

    result = base.fit_image(image, 20)

    assert np.array_equal(result, image[20:40] if height > width else image[:, 20:40])


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (427, 640), (90, 61)])
@pytest.mark.parametrize("canvas_size", [32, 256])
def test_resizing_is_pillows_but_for_the_rounding_of_a_few_values(height, width, canvas_size):
    photograph = Image.fromarray(load_sample_image("china.jpg")).resize((width, height))

    result = base.fit_image(np.array(photograph), canvas_size).astype(int)

    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = photograph.crop((left, top, left + side, top + side))
    expected = square.resize((canvas_size, canvas_size), Image.Resampling.BICUBIC)
    difference = abs(result - np.asarray(expected))
    assert difference.max() <= 1
    assert difference.mean() < 0.01


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255

    result = base.fit_image(stripes, 16).astype(int)

    assert abs(result[:, 2:-2] - 127).max() < 10  # without antialiasing: 0 or 255


def test_images_are_in_order_and_in_chunks_of_limited_size(monkeypatch):
    monkeypatch.setattr(base, "CHUNK_BYTES", 3 * 3 * 8 * 8)
    images = noise(10, 8, 8, 3)

    chunks = [chunk.images for chunk in base.fit_images([images[:5], images[5:]], 8)]

    assert [len(chunk) for chunk in chunks] == [3, 2, 3, 2]
    assert np.array_equal(np.concatenate(chunks), images)


def test_an_image_larger_than_a_chunk_is_a_chunk_of_its_own(monkeypatch):
    monkeypatch.setattr(base, "CHUNK_BYTES", 3 * 8 * 8 - 1)

    chunks = [chunk.images for chunk in base.fit_images([noise(3, 8, 8, 3)], 8)]

    assert [len(chunk) for chunk in chunks] == [1, 1, 1]


def test_one_part_is_kept_in_memory_at_a_time():
    made = []

    def part():
        assert not any(earlier() is not None for earlier in made)
        planes = noise(4, 3, 8, 8)
        made.append(weakref.ref(planes))
        return planes

    parts = (part().transpose(0, 2, 3, 1) for _ in range(3))
    chunks = [chunk.images for chunk in base.fit_images(parts, 8)]

    assert sum(map(len, chunks)) == 12


def test_a_transposed_view_becomes_contiguous():
    planes = noise(5, 3, 8, 8)

    result = fitted(planes.transpose(0, 2, 3, 1), 8)

    assert result.flags.c_contiguous
    assert np.array_equal(result[:, :, :, 2], planes[:, 2])


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 16), (16, 8)])
def test_images_of_another_size_are_each_fitted(height, width):
    images = noise(3, height, width, 3)

    result = fitted(images, 16)

    expected = [base.fit_image(image, 16) for image in images]
    assert result.shape == (3, 16, 16, 3)
    assert np.array_equal(result, np.stack(expected))
