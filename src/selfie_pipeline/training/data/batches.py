"""Batches: each a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfie_pipeline.config import AugmentationConfig, PatchConfig, TrainingConfig
from selfie_pipeline.models.patch_grid import unpatchify
from selfie_pipeline.training.data.augmentation import crop
from selfie_pipeline.training.data.randomness import Purpose, fold_in, generator


class Grids(Protocol):
    """Stored patch grids, of which any rows can be had."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the stored grid."""

    @property
    def mean(self) -> NDArray[np.float32]:
        """(C,): mean of the training pixels, in units of 255."""

    @property
    def std(self) -> NDArray[np.float32]:
        """(C,): their standard deviation, likewise."""

    def gather(self, rows: NDArray[np.int64]) -> Tensor:
        """(B, N, C, P, P), uint8: the grids of these samples, in this order."""


class Batch(NamedTuple):
    """A batch, or one of the parts that it is computed in.

    Attributes:
        step: Steps done before it.
        first_row: Place of this part's first image in the whole batch.
        samples: (B,), int64: which samples.
        patches: (B, N, C, P, P), uint8: the stored grids.
        corners: (B, 2), int64: where each image's window is cut.
        flips: (B,), bool: which images are mirrored.
    """

    step: int
    first_row: int
    samples: Tensor
    patches: Tensor
    corners: Tensor
    flips: Tensor


@dataclass(frozen=True)
class Images:
    """Stored patch grids, and how the network's images are cut from them.

    Attributes:
        grids: Where the pixels lie.
        patch: For the sizes of canvas and window.
        augmentation: For padding and mirroring.
    """

    grids: Grids
    patch: PatchConfig
    augmentation: AugmentationConfig

    def windows(self, random: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Random corners (count, 2) and mirrors (count,), as `augmentation.crop` takes them."""
        corners = self.patch.canvas_size + 2 * self.augmentation.pad - self.patch.image_size + 1
        drawn = torch.randint(corners, (count, 2), generator=random)  # (count, 2)
        flips = torch.rand(count, generator=random) < 0.5 * self.augmentation.flip  # (count,)
        return drawn, flips

    def cut_out(self, patches: Tensor, corners: Tensor, flips: Tensor) -> Tensor:
        """The windows of stored grids: (B, N, C, P, P), uint8, to (B, C, H, W), uint8."""
        canvases = unpatchify(patches, self.grids.grid)  # (B, C, canvas, canvas)
        return crop(canvases, corners, flips, self.patch.image_size, self.augmentation.pad)

    def central(self, rows: NDArray[np.int64]) -> Tensor:
        """The central windows of some samples, as evaluation sees them: (B, C, H, W), uint8."""
        edge = (self.patch.canvas_size - self.patch.image_size) // 2 + self.augmentation.pad
        corners = torch.full((len(rows), 2), edge)  # (B, 2)
        flips = torch.zeros(len(rows), dtype=torch.bool)  # (B,)
        return self.cut_out(self.grids.gather(rows), corners, flips)


@dataclass(frozen=True)
class Batches:
    """The batches of a training, from any step on.

    Attributes:
        images: What to train on.
        rows: (M,), int64: which samples, as rows of the stored grids.
        seed: Of the training.
        recipe: For the number of steps, the batch size and its parts.
        first_step: Steps done already.
        worker: Which of the workers this is that compute a batch together, from 0.
        workers: How many they are; each computes as many rows of every part as any other.
    """

    images: Images
    rows: NDArray[np.int64]
    seed: int
    recipe: TrainingConfig
    first_step: int = 0
    worker: int = 0
    workers: int = 1

    def __len__(self) -> int:
        return (self.recipe.steps - self.first_step) * self.recipe.accumulate

    def __iter__(self) -> Iterator[Batch]:
        """Yield the parts in order."""
        for step in range(self.first_step, self.recipe.steps):
            for part in range(self.recipe.accumulate):
                yield self.part(step, part)

    def part(self, step: int, part: int = 0) -> Batch:
        """One of the parts of the batch at a step; of several workers, this one's rows of it."""
        whole = self.recipe.batch_size
        size = whole // (self.recipe.accumulate * self.workers)
        share = part * self.workers + self.worker  # parts lie as they do with one worker
        own = slice(share * size, (share + 1) * size)
        places = np.arange(step * whole, (step + 1) * whole)[own]  # (B,)
        samples = self.rows[shuffled(self.seed, len(self.rows), places)]  # (B,)
        random = generator(self.seed, Purpose.AUGMENTATION, step)
        corners, flips = self.images.windows(random, whole)  # (whole, 2), (whole,)
        return Batch(
            step=step,
            first_row=own.start,
            samples=torch.from_numpy(samples),
            patches=self.images.grids.gather(samples),
            corners=corners[own],
            flips=flips[own],
        )


def shuffled(seed: int, samples: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which samples stand at these places of an endless stream that is shuffled anew every epoch.

    Args:
        seed: Of the training.
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


@lru_cache(maxsize=2)  # a batch touches two epochs at most, unless an epoch is shorter than it
def _permutation(seed: int, epoch: int, samples: int) -> NDArray[np.uint32]:
    random = np.random.default_rng(fold_in(seed, Purpose.SHUFFLE, epoch))
    return random.permutation(np.arange(samples, dtype=np.uint32))  # kept: half of int64's bytes


def patch_order(seed: int, step: int, batch_size: int, patches: int) -> Tensor:
    """For each image of a batch a permutation of its own of its patches' places.

    Returns:
        (batch_size, patches), int64. The last places of each row are the image's targets.
    """
    random = generator(seed, Purpose.MASK, step)
    return torch.rand(batch_size, patches, generator=random).argsort(dim=1)
