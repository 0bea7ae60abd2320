"""Random crops, mirroring, colour jitter and normalisation of whole batches, on the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_ASPECT_RATIOS = (3 / 4, 4 / 3)
_GREY_SHARE = 0.2
_RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def draw_boxes(rng: torch.Generator, count: int, smallest: float) -> Tensor:
    """Draw the boxes of random resized crops, as in Szegedy et al., arXiv 1409.4842.

    Args:
        rng: Source of the random numbers.
        count: Number of boxes, B.
        smallest: Smallest area, a fraction of the canvas; the largest is 1.

    Returns:
        (B, 4), float32: height, width, and the top and left edge, as fractions of the canvas's
        side. The ratio of width to height is from 3/4 to 4/3 unless the canvas cuts it.
    """
    draws = torch.rand(count, 4, generator=rng)  # (B, 4)
    area = smallest + (1 - smallest) * draws[:, 0]  # (B,)
    low, high = (math.log(ratio) for ratio in _ASPECT_RATIOS)
    ratio = (low + (high - low) * draws[:, 1]).exp()  # (B,)
    sides = torch.stack([area / ratio, area * ratio], dim=1).sqrt().clamp(max=1)  # (B, 2)
    return torch.cat([sides, (1 - sides) * draws[:, 2:]], dim=1)  # (B, 4)


def resized_crop(canvases: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cut a box out of each canvas and resize it bilinearly.

    Args:
        canvases: (B, C, H, W), uint8.
        boxes: (B, 4), float32: as `draw_boxes` returns them.
        size: Side of the result, pixels.

    Returns:
        (B, C, size, size), float32, from 0 to 255.
    """
    sides, corners = boxes[:, :2], boxes[:, 2:]  # (B, 2) each
    centres = 2 * corners + sides - 1  # (B, 2), from -1 to 1 on the canvas
    along = (torch.arange(size, device=boxes.device) * 2 + 1) / size - 1  # (size,)
    rows, columns = (sides[..., None] * along + centres[..., None]).unbind(1)  # (B, size) each
    grid = torch.stack(
        [columns[:, None].expand(-1, size, -1), rows[..., None].expand(-1, -1, size)], dim=-1
    )  # (B, size, size, 2), x before y
    pixels = canvases.float().contiguous(memory_format=torch.channels_last)
    return functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def draw_colours(rng: torch.Generator, count: int, patches: int, strength: float) -> Tensor:
    """Draw changes of hue, saturation, brightness and contrast, in this order, as linear maps.

    Ranges are those of SimCLR's appendix A (arXiv 2002.05709): factors from 1 - 0.8 s to
    1 + 0.8 s, a rotation of the hue by up to 0.4 π s, and one patch in five turned grey.

    Args:
        rng: Source of the random numbers.
        count: Number of images, B.
        patches: Number of patches of an image that change independently, M.
        strength: SimCLR's s, from 0 to 1.

    Returns:
        (B, M, 2, 3, 3), float32: the matrix of each pixel's colour and that of the patch's mean
        colour; their products are summed.
    """
    draws = torch.rand(count, patches, 5, generator=rng)  # (B, M, 5)
    factors = 1 + 0.8 * strength * (2 * draws[..., :3] - 1)  # (B, M, 3)
    saturation, brightness, contrast = factors[..., None, None].unbind(2)  # (B, M, 1, 1) each
    saturation = saturation * (draws[..., 4, None, None] >= _GREY_SHARE)  # (B, M, 1, 1)
    angle = 0.4 * math.pi * strength * (2 * draws[..., 3] - 1)  # (B, M)
    to_yiq, grey = torch.tensor(_RGB_TO_YIQ), torch.tensor(_RGB_TO_YIQ[:1] * 3)  # (3, 3) each
    hue = to_yiq.inverse() @ _chroma_rotation(angle) @ to_yiq  # (B, M, 3, 3)
    colour = brightness * (saturation * torch.eye(3) + (1 - saturation) * grey) @ hue
    of_mean = (1 - contrast) * grey @ colour  # (B, M, 3, 3)
    return torch.stack([contrast * colour, of_mean], dim=2)  # (B, M, 2, 3, 3)


def _chroma_rotation(angle: Tensor) -> Tensor:
    """Return the rotations of I and Q around the luminance Y: (B, M), radians, to (B, M, 3, 3)."""
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)  # (B, M) each
    entries = [zero + 1, zero, zero, zero, cos, -sin, zero, sin, cos]
    return torch.stack(entries, dim=-1).view(*angle.shape, 3, 3)  # (B, M, 3, 3)


def jitter_colours(pixels: Tensor, colours: Tensor) -> Tensor:
    """Change the colours of each patch.

    Args:
        pixels: (B, M, 3, P, P), uint8 or float32, from 0 to 255.
        colours: (B, M, 2, 3, 3), float32: as `draw_colours` returns them.

    Returns:
        (B, M, 3, P, P), float32, from 0 to 255; channels are last in memory.
    """
    last = pixels.permute(0, 1, 3, 4, 2)  # (B, M, P, P, 3)
    flat = last.flatten(2, 3).float()  # (B, M, P·P, 3)
    mean = flat.mean(dim=2, keepdim=True)  # (B, M, 1, 3)
    of_pixel, of_mean = colours.transpose(3, 4).unbind(2)  # (B, M, 3, 3) each
    with torch.autocast(pixels.device.type, enabled=False):  # bf16 has 8 bits, as a pixel
        flat = (flat @ of_pixel + mean @ of_mean).clamp(0, 255)  # (B, M, P·P, 3)
    return flat.view(last.shape).permute(0, 1, 4, 2, 3)  # (B, M, 3, P, P)


def gather_patches(
    grids: Tensor,
    grid_shape: tuple[int, int],
    corners: Tensor,
    flips: Tensor,
    *,
    image_size: int,
    patch_size: int,
    padding: int,
) -> Tensor:
    """Read a window of each stored canvas, cut into patches, in one gather.

    A window is a crop of the zero-padded canvas, mirrored left to right or not. The canvas itself
    is never assembled: the offset of a pixel in its stored grid is the sum of a term for its row,
    one for its column and one for its channel.

    Args:
        grids: (B, N, C, P, P), uint8: the patch grids of the canvases, row by row.
        grid_shape: Rows and columns of patches of a canvas; N is their product.
        corners: (B, 2), int64: top and left edge of each window on the padded canvas, pixels.
        flips: (B,), bool: the windows to mirror.
        image_size: Side of a window, pixels.
        patch_size: Side of the returned patches, pixels; it divides `image_size`. With
            `image_size` itself, the only patch is the whole window.
        padding: Zeros on each side of the canvas, pixels.

    Returns:
        (B, M, C, patch_size, patch_size), uint8, with M = (image_size / patch_size)², row by row;
        channels are last in memory.
    """
    b, _, c, p, _ = grids.shape
    height, width = grid_shape[0] * p, grid_shape[1] * p
    side = image_size // patch_size
    along = torch.arange(image_size, device=grids.device)  # (image_size,)
    rows = corners[:, :1] + along - padding  # (B, image_size)
    mirrored = torch.where(flips[:, None], along.flip(0), along)  # (B, image_size)
    columns = corners[:, 1:] + mirrored - padding  # (B, image_size)
    rows = rows.view(b, side, 1, patch_size, 1, 1)  # (B, R, 1, P, 1, 1)
    columns = columns.view(b, 1, side, 1, patch_size, 1)  # (B, 1, S, 1, P, 1)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)  # (B,R,S,P,P,1)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    of_row = rows // p * (grid_shape[1] * c * p * p) + rows % p * p  # (B, R, 1, P, 1, 1)
    of_column = columns // p * (c * p * p) + columns % p  # (B, 1, S, 1, P, 1)
    of_channel = torch.arange(c, device=grids.device) * (p * p)  # (C,)
    offsets = of_row + of_column + of_channel  # (B, R, S, P, P, C)
    pixels = grids.flatten(1).gather(1, offsets.flatten(1)).view(offsets.shape)  # (B,R,S,P,P,C)
    if padding:
        pixels = pixels * inside  # (B, R, S, P, P, C)
    return pixels.flatten(1, 2).permute(0, 1, 4, 2, 3)  # (B, M, C, P, P)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Bring pixels to zero mean and unit deviation.

    Args:
        images: (..., C, H, W), uint8 or float32, from 0 to 255.
        mean: (C,), float32: of the training images' pixels, for pixels scaled to 0 to 1.
        std: (C,), float32: their standard deviation, for pixels scaled to 0 to 1.

    Returns:
        (..., C, H, W), float32, in the images' memory format.
    """
    scale = (1 / (255 * std)).view(-1, 1, 1)  # (C, 1, 1)
    offset = (mean / std).view(-1, 1, 1)  # (C, 1, 1)
    return images.float() * scale - offset
