import colorsys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from selfie_pipeline.models.patch_grid import patchify
from selfie_pipeline.training.data.augmentation import (
    draw_boxes,
    draw_colours,
    gather_patches,
    jitter_colours,
    normalise,
    resized_crop,
)
from selfie_pipeline.training.data.batches import Batches


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
    windows = images.read_central(np.arange(1797))
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
    assert torch.equal(make_images(config, canvases).read_central(rows), expected)


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


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("group", ["pretrain", "finetune"])
@pytest.mark.parametrize("canvas", [32, 40])
def test_augmented_windows_are_crops_of_the_stored_canvases(
    make_config, make_images, canvas, group
):
    config = make_config({"patch.canvas_size": canvas, "augmentation.pad": 2})
    canvases = torch.randint(0, 256, (5, 3, canvas, canvas), dtype=torch.uint8)
    images = make_images(config, canvases)
    batch = Batches(images, np.arange(5), 0, getattr(config, group)).micro_batch(0)

    windows = images.read_augmented(batch, 32)[:, 0]

    for row, sample in enumerate(batch.samples):
        top, left = batch.corners[row].tolist()
        expected = crop_one(canvases[sample].numpy(), top, left, bool(batch.flips[row]), 32, 2)
        np.testing.assert_array_equal(windows[row].numpy(), expected)
    assert torch.equal(images.read_augmented(batch, 8), patchify(windows, 8))


def test_boxes_lie_on_the_canvas_and_have_the_areas_and_shapes_asked_for():
    boxes = draw_boxes(rng(), 20_000, smallest=0.3)
    sides, corners = boxes[:, :2], boxes[:, 2:]
    area, ratio = sides.prod(dim=1), sides[:, 1] / sides[:, 0]
    assert corners.min() >= 0
    assert (corners + sides).max() <= 1 + 1e-6
    assert 0.26 < area.min() < 0.31  # the edge of the canvas cuts some
    assert 0.99 < area.max() <= 1
    assert 0.74 < ratio.min() < 0.76
    assert 1.32 < ratio.max() < 1.34
    assert area[:, None].mean() == pytest.approx(0.64, abs=0.02)
    uncut = (sides < 0.7).all(dim=1)
    places = corners[uncut] / (1 - sides[uncut])
    assert (places.mean(dim=0) - 0.5).abs().max() < 0.02
    assert places.std(dim=0).mean() == pytest.approx(12**-0.5, abs=0.01)


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((1.0, 1.0, 0.0, 0.0), slice(0, 40), slice(0, 40)),
        ((0.5, 0.5, 0.25, 0.5), slice(10, 30), slice(20, 40)),
        ((0.25, 0.25, 0.0, 0.75), slice(0, 10), slice(30, 40)),
    ],
)
def test_a_box_of_whole_pixels_is_cut_as_it_is(box, rows, columns):
    canvases = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8)
    cut = resized_crop(canvases, torch.tensor([box] * 3), rows.stop - rows.start)
    torch.testing.assert_close(cut, canvases[:, :, rows, columns].float(), atol=1e-3, rtol=0)


def test_crops_are_resized_as_pillow_does():
    """Bilinearly, up and in other proportions."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    box = torch.tensor([[0.5, 0.75, 0.1, 0.2]])  # 20 × 30 pixels from row 4 and column 8
    cut = resized_crop(torch.from_numpy(pixels).permute(2, 0, 1)[None], box, 32)
    resized = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR, (8, 4, 38, 24))
    expected = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
    assert (cut[0, :, 1:-1, 1:-1] - expected[:, 1:-1, 1:-1]).abs().max() < 1
    # at its edges Pillow uses the box's own pixels alone


def test_colours_change_as_torchvision_changes_them():
    """Hue is compared with YIQ, because torchvision's is that of HSV; `colorsys` rounds YIQ's."""
    image = torch.rand(3, 8, 8, generator=rng()) * 80 + 80  # so that nothing is clipped
    colours = draw_colours(rng(1), 1, 50, 0.5)
    changed = jitter_colours(image.expand(1, 50, 3, 8, 8), colours)[0]
    draws = torch.rand(1, 50, 5, generator=rng(1))[0]
    saturation, brightness, contrast = (1 + 0.4 * (2 * draws[:, :3] - 1)).unbind(1)
    saturation = saturation * (draws[:, 4] >= 0.2)
    for patch in range(50):
        expected = rotate_hue(image, 0.2 * np.pi * (2 * draws[patch, 3].item() - 1)) / 255
        expected = functional.adjust_saturation(expected, saturation[patch].item())
        expected = functional.adjust_brightness(expected, brightness[patch].item())
        expected = functional.adjust_contrast(expected, contrast[patch].item())
        torch.testing.assert_close(changed[patch] / 255, expected, atol=8e-3, rtol=0)


def rotate_hue(image, angle):
    """Rotate the vectors around the axis that keeps the luminance in YIQ, one pixel at a time."""
    rotated = torch.empty_like(image)
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            y, i, q = colorsys.rgb_to_yiq(*image[:, row, column].tolist())
            turned = (i + 1j * q) * np.exp(1j * angle)
            rgb = torch.linalg.inv(TO_YIQ) @ torch.tensor(
                [y, turned.real, turned.imag], dtype=torch.float32
            )
            rotated[:, row, column] = rgb
    return rotated


TO_YIQ = torch.tensor([colorsys.rgb_to_yiq(*row) for row in np.eye(3)]).T.float()


def test_a_fifth_of_the_patches_is_grey():
    pixels = torch.rand(200, 16, 3, 4, 4, generator=rng()) * 255
    changed = jitter_colours(pixels, draw_colours(rng(), 200, 16, 0.5))
    spread = changed.amax(dim=2) - changed.amin(dim=2)  # (B, M, P, P), over the channels
    grey = (spread < 0.1).all(dim=-1).all(dim=-1)  # (B, M)
    assert grey.double().mean().item() == pytest.approx(0.2, abs=0.02)
    assert 0 < grey.any(dim=1).double().mean() < 1  # not whole images


def test_colours_stay_from_0_to_255_and_do_not_depend_on_autocast():
    pixels = torch.randint(0, 256, (8, 16, 3, 4, 4), dtype=torch.uint8)
    colours = draw_colours(rng(), 8, 16, 1.0)
    changed = jitter_colours(pixels, colours)
    assert changed.min() == 0
    assert changed.max() == 255
    assert changed.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(jitter_colours(pixels, colours), changed)


@pytest.mark.parametrize(("group", "patches"), [("pretrain", 16), ("finetune", 1)])
def test_in_pretraining_each_patch_changes_its_colours_on_its_own(
    make_config, make_images, group, patches
):
    config = make_config({f"{group}.colour_jitter": 0.5, f"{group}.smallest_crop": 0.3})
    images = make_images(config)
    recipe = getattr(config, group)
    batch = Batches(images, np.arange(100), 0, recipe).micro_batch(0)

    assert batch.boxes.shape == (8, 4)
    assert batch.colours.shape == (8, patches, 2, 3, 3)
    assert len(batch.colours.flatten(0, 1).unique(dim=0)) == 8 * patches
    size = 8 if group == "pretrain" else 32
    augmented = images.read_augmented(batch, size)
    assert augmented.shape == (8, patches, 3, size, size)
    assert augmented.dtype == torch.float32
    plain = images.read_augmented(batch._replace(colours=None), size)
    torch.testing.assert_close(augmented, jitter_colours(plain, batch.colours))


def test_the_augmentation_can_be_taken_away(make_config, make_images):
    """So that a training with the paper's has the batches that it had."""
    plain = make_config()
    other = make_config({"pretrain.colour_jitter": 0.5, "pretrain.smallest_crop": 0.3})
    one, two = (
        Batches(make_images(config), np.arange(100), 0, config.pretrain).micro_batch(3)
        for config in (plain, other)
    )
    assert one.boxes is None
    assert one.colours is None
    for name in ("samples", "corners", "flips", "order"):
        assert torch.equal(getattr(one, name), getattr(two, name))
