"""How batches reach the device: ahead of the step, and on a GPU from its own memory if they fit."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfie_pipeline.training.data.batches import Batch, Batches, Grids
from selfie_pipeline.training.data.transfer import send
from selfie_pipeline.training.device import Device

RESIDENT_SHARE = 1 / 3
"""Most of a GPU's free memory that pixels may take; the training needs the rest."""

_PIECE_BYTES = 2**26  # that are copied to the device at once


class ResidentGrids:
    """The patch grids of some samples, in a device's memory."""

    def __init__(self, grids: Grids, rows: NDArray[np.int64], device: str) -> None:
        """Copy them.

        Args:
            grids: Where they are stored.
            rows: (M,), int64: which samples; no others are read.
            device: Where to.
        """
        self.grid = grids.grid
        self.mean = grids.mean
        self.std = grids.std
        self._places = np.full(rows.max() + 1, -1)  # of each sample among the patches
        self._places[rows] = np.arange(len(rows))
        one = grids.gather(rows[:1])  # (1, N, C, P, P)
        self._patches = one.new_empty((len(rows), *one.shape[1:]), device=device)  # (M, N, C, P, P)
        piece = max(1, _PIECE_BYTES // one.nbytes)
        for start in range(0, len(rows), piece):
            self._patches[start : start + piece] = grids.gather(rows[start : start + piece])

    def gather(self, rows: NDArray[np.int64]) -> Tensor:
        """(B, N, C, P, P), uint8, on the device: the grids of these samples, in this order.

        Raises:
            IndexError: A sample is not one of those that were copied.
        """
        places = self._places[rows]  # (B,)
        if places.min() < 0:
            raise IndexError(f"sample {rows[places.argmin()]} is not on the device")
        return self._patches.index_select(0, send(torch.from_numpy(places), self._patches.device))


@dataclass(frozen=True)
class Feed:
    """The parts of a training's batches on the device, each brought there in advance.

    Attributes:
        batches: Which.
        device: `cpu` or `cuda`.
    """

    batches: Batches
    device: str

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the parts in order; the next is made ready while the present one is computed."""
        parts = iter(self.batches)
        # Copies on a stream of their own overlap with the step.
        stream = None
        if self.device == "cuda":
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

        def make_ready() -> Batch | None:
            with torch.cuda.stream(stream):  # None leaves all as it is
                part = next(parts, None)
                return None if part is None else _moved(part, torch.device(self.device))

        with ThreadPoolExecutor(max_workers=1) as reader:
            coming = reader.submit(make_ready)
            while (part := coming.result()) is not None:
                if stream is not None:
                    _hand_over(part, stream)
                coming = reader.submit(make_ready)
                yield part


def feed(batches: Batches, device: Device) -> Feed:
    """Feed a device; a GPU that has room for the pixels is given them all before the first step."""
    if device.type == "cuda":
        gc.collect()  # Lightning's objects hold each other, and an earlier training's pixels
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        batches = settle(batches, device.type, room=int(free * RESIDENT_SHARE))
    return Feed(batches, device.type)


def settle(batches: Batches, device: str, room: int) -> Batches:
    """The same batches with all of their pixels in a device's memory, if `room` bytes hold them."""
    stored = batches.images.grids
    needed = len(batches.rows) * stored.gather(batches.rows[:1]).nbytes
    if needed > room:
        return batches
    grids = ResidentGrids(stored, batches.rows, device)
    return replace(batches, images=replace(batches.images, grids=grids))


def _moved(part: Batch, device: torch.device) -> Batch:
    return Batch(part.step, part.first_row, *(send(tensor, device) for tensor in part[2:]))


def _hand_over(part: Batch, stream: torch.cuda.Stream) -> None:
    """Let the step's stream go on when what `stream` has made of the part is there."""
    current = torch.cuda.current_stream()
    current.wait_stream(stream)
    for tensor in part[2:]:
        tensor.record_stream(current)  # or its memory would be `stream`'s again too early
