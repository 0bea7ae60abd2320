"""Conversion of images into patch grids."""

from __future__ import annotations

from torch import Tensor


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images into their patch grids, row by row.

    Args:
        images: (B, C, H, W), of any dtype; `patch_size` divides H and W.
        patch_size: Side of a patch, P, in pixels.

    Returns:
        (B, N, C, P, P), with N = (H / P) · (W / P).

    Raises:
        ValueError: `patch_size` does not divide the image.
    """
    b, c, h, w = images.shape
    if h % patch_size or w % patch_size:
        raise ValueError(f"patches of {patch_size} pixels do not divide images of {h} × {w}")
    rows, columns = h // patch_size, w // patch_size
    grid = images.reshape(b, c, rows, patch_size, columns, patch_size)  # (B, C, R, P, S, P)
    grid = grid.permute(0, 2, 4, 1, 3, 5)  # (B, R, S, C, P, P)
    return grid.reshape(b, rows * columns, c, patch_size, patch_size)  # (B, N, C, P, P)
