"""Tests of the conversion of images into patch grids."""

import pytest
import torch
from torch.nn import functional

from selfie_pipeline.models.patch_grid import patchify

SHAPES = [  # images, patch size, rows, columns
    ((2, 3, 32, 32), 8, 4, 4),
    ((1, 3, 224, 224), 32, 7, 7),
    ((3, 1, 12, 20), 4, 3, 5),
    ((2, 4, 6, 6), 6, 1, 1),
    ((2, 2, 3, 5), 1, 3, 5),
]


def numbered(shape, dtype):
    """Return images whose values are all different, within the range of uint8."""
    return (torch.arange(torch.Size(shape).numel()) % 251).reshape(shape).to(dtype)


def unpatchify(patches, grid):
    """Join patch grids into images: (B, N, C, P, P) to (B, C, H, W)."""
    pixels = patches.flatten(2).mT.unflatten(2, grid)  # (B, C·P·P, R, S)
    return functional.pixel_shuffle(pixels, patches.shape[-1])  # (B, C, H, W)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("shape", "size", "rows", "columns"), SHAPES)
def test_unpatchify_inverts_patchify(shape, size, rows, columns, dtype):
    images = numbered(shape, dtype)
    patches = patchify(images, size)
    assert patches.shape == (shape[0], rows * columns, shape[1], size, size)
    restored = unpatchify(patches, (rows, columns))
    assert restored.dtype == dtype
    assert torch.equal(restored, images)


@pytest.mark.parametrize(("shape", "size", "rows", "columns"), SHAPES)
def test_patchify_inverts_unpatchify(shape, size, rows, columns):
    patches = torch.rand(shape[0], rows * columns, shape[1], size, size)
    assert torch.equal(patchify(unpatchify(patches, (rows, columns)), size), patches)


@pytest.mark.parametrize(("shape", "size", "rows", "columns"), SHAPES)
def test_patches_are_ordered_row_by_row(shape, size, rows, columns):
    images = torch.rand(shape)
    patches = patchify(images, size)
    for row in range(rows):
        for column in range(columns):
            top, left = row * size, column * size
            window = images[:, :, top : top + size, left : left + size]
            assert torch.equal(patches[:, row * columns + column], window)


def test_channels_last_images_give_the_same_patches():
    images = torch.rand(2, 3, 8, 12)
    other = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(patchify(other, 4), patchify(images, 4))


@pytest.mark.parametrize("shape", [(1, 3, 32, 30), (1, 3, 30, 32)])
def test_a_patch_size_that_does_not_divide_the_image_is_an_error(shape):
    with pytest.raises(ValueError, match=r"patches of 8 pixels do not divide images of 3\d × 3\d"):
        patchify(torch.zeros(shape), 8)
