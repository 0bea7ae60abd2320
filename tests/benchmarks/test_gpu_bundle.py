"""Tests of `benchmarks/gpu_bundle.py`: CIFAR-10 is restored without loss."""

import pickle

import numpy as np
import pytest
from gpu_bundle import FILES, STRIP, load_cifar10, read_cifar10, write_strip


@pytest.fixture
def published(tmp_path):
    """Write files in the published format, with 7 random images each."""
    rng = np.random.default_rng(0)
    pixels, labels = [], []
    for name in FILES:
        batch = {
            b"data": rng.integers(0, 256, (7, 3072), dtype=np.uint8),
            b"labels": rng.integers(0, 10, 7).tolist(),
        }
        (tmp_path / name).write_bytes(pickle.dumps(batch))
        pixels.append(batch[b"data"])
        labels += batch[b"labels"]
    return tmp_path, np.concatenate(pixels), labels


def test_published_files_are_read_channels_last_with_the_test_images_at_the_end(published):
    folder, expected, labels = published
    images, found = read_cifar10(folder)

    assert images.shape == (42, 32, 32, 3)
    assert np.array_equal(images[:, :, :, 1].reshape(42, -1), expected[:, 1024:2048])
    assert found.tolist() == labels


def test_images_in_several_parcels_are_restored_without_loss(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (STRIP + 3, 32, 32, 3), dtype=np.uint8)
    images[:2] = [[[[0]]], [[[255]]]]
    labels = rng.integers(0, 10, len(images))
    for number, start in enumerate((0, STRIP), 1):
        parcel = tmp_path / f"part-{number}"
        parcel.mkdir()
        write_strip(parcel, start, images[start : start + STRIP])
    np.save(tmp_path / "part-1" / "labels.npy", labels.astype(np.uint8))

    restored, found = load_cifar10(tmp_path)

    assert np.array_equal(restored, images)
    assert np.array_equal(found, labels)
