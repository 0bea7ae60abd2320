"""Prefetches micro-batches on a background thread; on a GPU, from its own memory if they fit."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfie_pipeline.training.cuda import CopyStream, free_bytes, to_device
from selfie_pipeline.training.data.batches import Batch, Batches, PatchGridStore

GPU_MEMORY_SHARE = 1 / 3
"""Largest share of a GPU's free memory that pixels may take; the training needs the rest."""

_COPY_BYTES = 2**26  # copied to the device at once


class DevicePatchGrids:
    """The patch grids of some samples, in a device's memory."""

    def __init__(self, grids: PatchGridStore, rows: NDArray[np.int64], device: str) -> None:
        """Copy them.

        Args:
            grids: The store to copy from.
            rows: (M,), int64: the samples to copy; no others are read.
            device: The device to copy to.
        """
        self.grid = grids.grid
        self.mean = grids.mean
        self.std = grids.std
        self._places = np.full(rows.max() + 1, -1)  # of each sample among the copied ones
        self._places[rows] = np.arange(len(rows))
        one = grids.gather(rows[:1])  # (1, N, C, P, P)
        self._grids = one.new_empty((len(rows), *one.shape[1:]), device=device)  # (M, N, C, P, P)
        chunk = max(1, _COPY_BYTES // one.nbytes)
        for start in range(0, len(rows), chunk):
            self._grids[start : start + chunk] = grids.gather(rows[start : start + chunk])

    def gather(self, rows: NDArray[np.int64]) -> Tensor:
        """Read the grids of these samples, in this order: (B, N, C, P, P), uint8, on the device.

        Raises:
            IndexError: A sample is not one of those that were copied.
        """
        places = self._places[rows]  # (B,)
        if places.min() < 0:
            raise IndexError(f"sample {rows[places.argmin()]} is not on the device")
        index = to_device(torch.from_numpy(places), self._grids.device)  # (B,)
        return self._grids.index_select(0, index)  # (B, N, C, P, P)


def cache_on_device(batches: Batches, device: str, max_bytes: int) -> Batches:
    """Return the same batches with all pixels in the device's memory if `max_bytes` hold them."""
    store = batches.images.grids
    needed = len(batches.rows) * store.gather(batches.rows[:1]).nbytes
    if needed > max_bytes:
        return batches
    grids = DevicePatchGrids(store, batches.rows, device)
    return replace(batches, images=replace(batches.images, grids=grids))


def prefetch(batches: Batches, device: str) -> Generator[Batch, None, None]:
    """Yield the micro-batches on the device; the next is read while the present one is computed.

    A GPU with enough free memory first receives all pixels. Otherwise, copies run on a stream of
    their own, so that they overlap with the step.

    Args:
        batches: The batches of a training.
        device: `cpu` or `cuda`.
    """
    if device == "cuda":
        batches = cache_on_device(batches, device, int(free_bytes() * GPU_MEMORY_SHARE))
    stream, target = CopyStream(device), torch.device(device)
    copies = (
        Batch._make(to_device(part, target) if isinstance(part, Tensor) else part for part in batch)
        for batch in batches
    )
    with ThreadPoolExecutor(max_workers=1, initializer=stream.use) as reader:
        pending = reader.submit(next, copies, None)
        while (batch := pending.result()) is not None:
            stream.record_use(filter(torch.is_tensor, batch[2:]))
            pending = reader.submit(next, copies, None)
            yield batch
