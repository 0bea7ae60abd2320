"""Random crops, mirroring and normalisation of whole batches, on the device."""

from __future__ import annotations

import torch
from torch import Tensor


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
        images: (..., C, H, W), uint8.
        mean: (C,), float32: of the training images' pixels, in units of 255.
        std: (C,), float32: their standard deviation, in units of 255.

    Returns:
        (..., C, H, W), float32, in the images' memory format.
    """
    scale = (1 / (255 * std)).view(-1, 1, 1)  # (C, 1, 1)
    offset = (mean / std).view(-1, 1, 1)  # (C, 1, 1)
    return images.float() * scale - offset
