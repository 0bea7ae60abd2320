import numpy as np
import pytest
import torch

from selfie_pipeline.models.patch_grid import patchify
from selfie_pipeline.training.data.augmentation import gather_patches, normalise


def crop_one(canvas, top, left, flip, size, padding):
    """A window of one canvas (C, H, W), pixel by pixel; outside of the canvas is zero."""
    channels, height, width = canvas.shape
    window = np.zeros((channels, size, size), canvas.dtype)
    for row in range(size):
        for column in range(size):
            y, x = top + row - padding, left + column - padding
            if 0 <= y < height and 0 <= x < width:
                window[:, row, size - 1 - column if flip else column] = canvas[:, y, x]
    return window


@pytest.mark.parametrize(
    ("height", "width", "patch", "size", "padding"),
    [
        (12, 12, 4, 12, 0),
        (12, 12, 4, 12, 4),
        (16, 20, 4, 12, 0),
        (15, 14, 1, 12, 2),
        (8, 8, 8, 3, 5),
    ],
)
def test_windows_are_those_cut_pixel_by_pixel(height, width, patch, size, padding):
    torch.manual_seed(0)
    images = 24
    canvases = torch.randint(1, 256, (images, 3, height, width), dtype=torch.uint8)
    limits = torch.tensor([height, width]) + 2 * padding - size
    corners = (torch.rand(images, 2) * (limits + 1)).long()
    corners[0], corners[1] = 0, limits
    flips = torch.arange(images) % 3 == 0
    stored = patchify(canvases, patch), (height // patch, width // patch)

    def gather(patch_size):
        sizes = {"image_size": size, "patch_size": patch_size, "padding": padding}
        return gather_patches(*stored, corners, flips, **sizes)

    windows = gather(size)[:, 0]
    assert windows.dtype == torch.uint8
    assert windows.is_contiguous(memory_format=torch.channels_last)
    for image in range(images):
        top, left = corners[image].tolist()
        expected = crop_one(canvases[image].numpy(), top, left, bool(flips[image]), size, padding)
        np.testing.assert_array_equal(windows[image].numpy(), expected)
    for patch_size in {1, 3, size}:
        patches = gather(patch_size)
        assert torch.equal(patches, patchify(windows, patch_size))
        flat = patches.flatten(0, 1)
        assert flat.is_contiguous(memory_format=torch.channels_last)


def test_normalise_is_numpy_s_in_float64(digits):
    images = digits[0][:50]
    draw = np.random.default_rng(0)
    mean, std = draw.uniform(0.2, 0.6, (2, 3)).astype(np.float32)
    expected = (images.numpy() / 255.0 - mean[:, None, None]) / std[:, None, None]
    out = normalise(images, torch.from_numpy(mean), torch.from_numpy(std))
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out.numpy(), expected, atol=2e-5)


def test_normalised_by_their_own_statistics_images_have_mean_0_and_deviation_1(
    make_config, make_images
):
    images = make_images(make_config())
    windows = images.central_windows(np.arange(1797))
    mean, std = torch.from_numpy(images.grids.mean), torch.from_numpy(images.grids.std)
    out = normalise(windows, mean, std).double()
    assert out.mean().item() == pytest.approx(0, abs=1e-5)
    assert out.std().item() == pytest.approx(1, abs=1e-4)


def test_normalise_keeps_channels_last():
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8).to(memory_format=torch.channels_last)
    out = normalise(images, torch.zeros(3), torch.ones(3))
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("canvas", "window"), [(32, 32), (40, 32), (48, 32), (48, 16)])
@pytest.mark.parametrize("pad", [0, 4])
def test_evaluation_sees_the_central_window_neither_padded_nor_mirrored(
    make_config, make_images, canvas, window, pad
):
    config = make_config(
        {
            "patch.canvas_size": canvas,
            "patch.image_size": window,
            "patch.targets": 2,
            "augmentation.pad": pad,
        }
    )
    canvases = torch.randint(0, 256, (6, 3, canvas, canvas), dtype=torch.uint8)
    rows = np.array([4, 0, 5])
    edge = (canvas - window) // 2
    inside = slice(edge, edge + window)
    expected = canvases[rows][:, :, inside, inside]
    assert torch.equal(make_images(config, canvases).central_windows(rows), expected)


@pytest.mark.parametrize(("canvas", "pad", "places"), [(32, 4, 9), (40, 0, 9), (32, 0, 1)])
def test_windows_start_anywhere_on_the_padded_canvas(make_config, make_images, canvas, pad, places):
    config = make_config({"patch.canvas_size": canvas, "augmentation.pad": pad})
    canvases = torch.zeros(1, 3, canvas, canvas, dtype=torch.uint8)
    images = make_images(config, canvases)
    corners, _ = images.draw_windows(torch.Generator().manual_seed(0), 4000)
    for axis in range(2):
        drawn, counts = corners[:, axis].unique(return_counts=True)
        assert drawn.tolist() == list(range(places))
        assert counts.min() > 0.8 * 4000 / places


@pytest.mark.parametrize(("flip", "share"), [(True, 0.5), (False, 0.0)])
def test_half_of_the_images_are_mirrored_or_none(make_config, make_images, flip, share):
    images = make_images(make_config({"augmentation.flip": flip}))
    _, flips = images.draw_windows(torch.Generator().manual_seed(0), 4000)
    assert flips.double().mean().item() == pytest.approx(share, abs=0.03)


def test_windows_and_patches_come_from_stored_grids(make_config, make_images):
    config = make_config({"patch.canvas_size": 40, "augmentation.pad": 2})
    canvases = torch.randint(0, 256, (5, 3, 40, 40), dtype=torch.uint8)
    images = make_images(config, canvases)
    corners, flips = images.draw_windows(torch.Generator().manual_seed(0), 5)

    windows = images.windows(patchify(canvases, 8), corners, flips)

    for image in range(5):
        top, left = corners[image].tolist()
        expected = crop_one(canvases[image].numpy(), top, left, bool(flips[image]), 32, 2)
        np.testing.assert_array_equal(windows[image].numpy(), expected)
    patches = images.patches(patchify(canvases, 8), corners, flips)
    assert torch.equal(patches, patchify(windows, 8))
