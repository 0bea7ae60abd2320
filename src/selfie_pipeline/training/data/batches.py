"""Training batches, each a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfie_pipeline.config import (
    AugmentationConfig,
    PatchConfig,
    PretrainConfig,
    TrainingConfig,
    UserError,
)
from selfie_pipeline.models.patch_grid import patchify
from selfie_pipeline.training.data.augmentation import (
    draw_boxes,
    draw_colours,
    gather_patches,
    jitter_colours,
    resized_crop,
)
from selfie_pipeline.training.data.randomness import RandomStream, fold_in, generator


class PatchGridStore(Protocol):
    """Random access to stored patch grids.

    Attributes:
        grid: Rows and columns of the stored grid.
        mean: Mean of the training pixels, (C,), for pixels scaled to 0 to 1.
        std: Standard deviation of the training pixels, (C,), for pixels scaled to 0 to 1.
    """

    grid: tuple[int, int]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def gather(self, rows: NDArray[np.int64]) -> Tensor:
        """Read the grids of these samples, in this order: (B, N, C, P, P), uint8."""


class Batch(NamedTuple):
    """A batch, or one of the micro-batches that it is computed in.

    Attributes:
        step: Steps completed before it.
        first_row: Place of its first image in the whole batch.
        samples: (B,), int64: the rows of the samples in the store.
        grids: (B, N, C, P, P), uint8: their stored patch grids.
        corners: (B, 2), int64: top and left edge of each image's window.
        flips: (B,), bool: the images to mirror.
        order: (B, M), int64: a permutation of the M patches of each image's window, for
            pretraining.
        boxes: (B, 4), float32: each image's box of its canvas, in place of `corners`; None where
            crops are not resized.
        colours: (B, M, 2, 3, 3), float32: the change of each patch's colours; in finetuning
            (B, 1, 2, 3, 3), of each image's; None where colours stay.
    """

    step: int
    first_row: int
    samples: Tensor
    grids: Tensor
    corners: Tensor
    flips: Tensor
    order: Tensor
    boxes: Tensor | None = None
    colours: Tensor | None = None


@dataclass(frozen=True)
class WindowReader:
    """Reads the windows that a network sees from stored patch grids."""

    grids: PatchGridStore
    patch: PatchConfig
    augmentation: AugmentationConfig

    def draw_windows(self, rng: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Draw corners, (count, 2), int64, and mirrors, (count,), bool, of random windows."""
        positions = self.patch.canvas_size + 2 * self.augmentation.pad - self.patch.image_size + 1
        corners = torch.randint(positions, (count, 2), generator=rng)  # (count, 2)
        flips = torch.rand(count, generator=rng) < 0.5 * self.augmentation.flip  # (count,)
        return corners, flips

    def read_augmented(self, batch: Batch, patch_size: int) -> Tensor:
        """Read the augmented windows of a batch, cut into patches.

        Args:
            batch: The stored grids of the images, and the random draws.
            patch_size: Side of the patches; with `patch.image_size`, each window is one patch.

        Returns:
            (B, M, C, P, P), uint8, or float32 from 0 to 255.
        """
        grids, corners, flips = batch.grids, batch.corners, batch.flips
        if batch.boxes is None:
            pixels = self._gather(grids, corners, flips, self.patch.image_size, patch_size)
        else:
            corners = torch.full_like(corners, self.augmentation.pad)  # (B, 2)
            size = self.patch.canvas_size
            canvases = self._gather(grids, corners, flips, size, size)  # (B, 1, C, H, W)
            side = self.patch.image_size
            windows = resized_crop(canvases[:, 0], batch.boxes, side)  # (B, C, H, W)
            pixels = patchify(windows, patch_size)  # (B, M, C, P, P)
        return pixels if batch.colours is None else jitter_colours(pixels, batch.colours)

    def read_central(self, rows: NDArray[np.int64]) -> Tensor:
        """Read the central windows of samples, for evaluation: (B, C, H, W), uint8."""
        edge = (self.patch.canvas_size - self.patch.image_size) // 2 + self.augmentation.pad
        corners = torch.full((len(rows), 2), edge)  # (B, 2)
        flips = torch.zeros(len(rows), dtype=torch.bool)  # (B,)
        size = self.patch.image_size
        grids = self.grids.gather(rows)  # (B, N, C, P, P)
        return self._gather(grids, corners, flips, size, size)[:, 0]  # (B, C, H, W)

    def read_pictures(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read the central windows of samples, to be drawn: (B, H, W, C), uint8."""
        return self.read_central(rows).permute(0, 2, 3, 1).numpy()  # (B, H, W, C)

    def _gather(
        self, grids: Tensor, corners: Tensor, flips: Tensor, image_size: int, patch_size: int
    ) -> Tensor:
        return gather_patches(
            grids,
            self.grids.grid,
            corners,
            flips,
            image_size=image_size,
            patch_size=patch_size,
            padding=self.augmentation.pad,
        )


def open_windows(
    grids: PatchGridStore, patch: PatchConfig, augmentation: AugmentationConfig
) -> WindowReader:
    """Open stored patch grids, to read windows of them.

    Raises:
        UserError: The grids were cut with other parameters.
    """
    per_side = patch.canvas_size // patch.patch_size
    size = grids.gather(np.zeros(1, dtype=np.int64)).shape[-1]
    if (*grids.grid, size) != (per_side, per_side, patch.patch_size):
        rows, columns = grids.grid
        raise UserError(
            f"patch_grids has {rows} × {columns} patches of {size} pixels a side; "
            f"patch.canvas_size = {patch.canvas_size} and patch.patch_size = {patch.patch_size} "
            f"ask for {per_side} × {per_side} of {patch.patch_size}: run `kedro run "
            "--pipeline=patch` with these parameters"
        )
    return WindowReader(grids, patch, augmentation)


@dataclass(frozen=True)
class Batches:
    """The batches of a training, from any step on.

    Attributes:
        rows: (M,), int64: the training samples, as rows of the store.
        first_step: Steps that are already completed.
        worker: Rank of this worker among those that compute a batch together.
        workers: Number of these workers; each computes equally many rows of every micro-batch.
    """

    images: WindowReader
    rows: NDArray[np.int64]
    seed: int
    recipe: TrainingConfig
    first_step: int = 0
    worker: int = 0
    workers: int = 1

    @property
    def micro_batch_size(self) -> int:
        """Images that a worker computes at once."""
        return self.recipe.batch_size // (self.recipe.accumulate * self.workers)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the micro-batches in order."""
        for step in range(self.first_step, self.recipe.steps):
            for index in range(self.recipe.accumulate):
                yield self.micro_batch(step, index)

    def micro_batch(self, step: int, index: int = 0) -> Batch:
        """Make one micro-batch of a step; of several workers, this one's rows of it."""
        batch_size, size = self.recipe.batch_size, self.micro_batch_size
        share = index * self.workers + self.worker  # micro-batches are laid out as with one worker
        own = slice(share * size, (share + 1) * size)
        places = np.arange(step * batch_size, (step + 1) * batch_size)[own]  # (B,)
        samples = self.rows[shuffled_samples(self.seed, len(self.rows), places)]  # (B,)
        rng = generator(self.seed, RandomStream.AUGMENTATION, step)
        corners, flips = self.images.draw_windows(rng, batch_size)  # (batch_size, 2), (batch_size,)
        boxes, colours = self._draw_boxes(rng), self._draw_colours(rng)
        order = patch_order(self.seed, step, batch_size, self.images.patch.patches)
        return Batch(
            step=step,
            first_row=own.start,
            samples=torch.from_numpy(samples),
            grids=self.images.grids.gather(samples),
            corners=corners[own],
            flips=flips[own],
            order=order[own],
            boxes=None if boxes is None else boxes[own],
            colours=None if colours is None else colours[own],
        )

    def _draw_boxes(self, rng: torch.Generator) -> Tensor | None:
        if self.recipe.smallest_crop is None:
            return None
        return draw_boxes(rng, self.recipe.batch_size, self.recipe.smallest_crop)

    def _draw_colours(self, rng: torch.Generator) -> Tensor | None:
        if not self.recipe.colour_jitter:
            return None
        pretraining = isinstance(self.recipe, PretrainConfig)
        patches = self.images.patch.patches if pretraining else 1
        return draw_colours(rng, self.recipe.batch_size, patches, self.recipe.colour_jitter)


def shuffled_samples(seed: int, samples: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the samples at these places of an endless stream, shuffled anew every epoch.

    Args:
        seed: Seed of the training.
        samples: Length of an epoch, M.
        places: (B,): from 0; epoch e has the places e · M to (e + 1) · M - 1.

    Returns:
        (B,), int64, each from 0 to M - 1; every epoch has each of them once.
    """
    epochs, within = np.divmod(places, samples)
    drawn = np.empty_like(places)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        drawn[here] = _permutation(seed, int(epoch), samples)[within[here]]
    return drawn


@lru_cache(maxsize=2)  # a batch spans at most two epochs, unless an epoch is shorter than it
def _permutation(seed: int, epoch: int, samples: int) -> NDArray[np.uint32]:
    rng = np.random.default_rng(fold_in(seed, RandomStream.SHUFFLE, epoch))
    return rng.permutation(np.arange(samples, dtype=np.uint32))  # cached: half of int64's bytes


def patch_order(seed: int, step: int, batch_size: int, patches: int) -> Tensor:
    """Draw an independent permutation of the patch positions for each image of a batch.

    Returns:
        (batch_size, patches), int64. The last positions of each row are the image's targets.
    """
    rng = generator(seed, RandomStream.MASK, step)
    return torch.rand(batch_size, patches, generator=rng).argsort(dim=1)  # (batch_size, patches)
