"""Nodes of the patching."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from selfie_pipeline.config import AugmentationConfig, DataConfig, PatchConfig, UserError
from selfie_pipeline.datasets.patch_grids import NewPatchGrids, PatchGrids
from selfie_pipeline.models.patch_grid import cut
from selfie_pipeline.pipelines.ingest.nodes import open_raw
from selfie_pipeline.provenance import digest
from selfie_pipeline.training.batches import Images


def stored_images(
    patch_grids: PatchGrids, patch: PatchConfig, augmentation: AugmentationConfig
) -> Images:
    """The stored grids as images to train on.

    Raises:
        UserError: The grids were cut with other parameters.
    """
    per_side = patch.canvas_size // patch.patch_size
    stored = (*patch_grids.grid, patch_grids.shape[-1])
    if stored != (per_side, per_side, patch.patch_size):
        rows, columns, size = stored
        raise UserError(
            f"patch_grids has {rows} × {columns} patches of {size} pixels a side; "
            f"patch.canvas_size = {patch.canvas_size} and patch.patch_size = {patch.patch_size} "
            f"ask for {per_side} × {per_side} of {patch.patch_size}: run `kedro run "
            "--pipeline=patch` with these parameters"
        )
    return Images(patch_grids, patch, augmentation)


def cut_patches(samples: pd.DataFrame, data: DataConfig, patch: PatchConfig) -> NewPatchGrids:
    """Cut every image's canvas into the patch grid; the pixels flow when the catalog saves it.

    Raises:
        UserError: The raw files have changed since the samples were listed.
    """
    source = open_raw(data)
    if not source.samples().reset_index().equals(samples):
        raise UserError(
            "the raw files have changed since they were listed; run `kedro run --pipeline=ingest`"
        )
    per_side = patch.canvas_size // patch.patch_size
    fingerprint = digest(
        {
            "source": source.fingerprint(),
            "canvas_size": patch.canvas_size,
            "patch_size": patch.patch_size,
        }
    )

    def chunks() -> Iterator[NDArray[np.uint8]]:
        for images in source.images(patch.canvas_size):  # (n, H, W, C)
            channels_first = torch.from_numpy(images).permute(0, 3, 1, 2)  # (n, C, H, W)
            yield cut(channels_first, patch.patch_size).numpy()  # (n, N, C, P, P)

    return NewPatchGrids(
        fingerprint=fingerprint,
        samples=len(samples),
        grid=(per_side, per_side),
        patch_size=patch.patch_size,
        chunks=chunks,
        statistics_rows=(samples["split"] != "test").to_numpy(),
    )
