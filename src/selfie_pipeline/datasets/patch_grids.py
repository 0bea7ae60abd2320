"""The patch-grid store: pixels are written once, and read from where they lie.

A version is a folder of uint8 `.npy` shards and a `manifest.json` that describes them. Shapes:
N patches of an image, C channels, p the side of a patch, pixels.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from selfie_pipeline.datasets.atomic import AtomicDataset, CatalogError
from selfie_pipeline.datasets.patch_grid_shards import (
    MANIFEST,
    Manifest,
    PendingPatchGrids,
    Shard,
    write_version,
)

logger = logging.getLogger(__name__)


class PatchGrids:
    """Patch grids on the disk, mapped into memory: opening reads no pixels.

    To another process it is handed over as its path, not its pixels.
    """

    def __init__(self, folder: Path) -> None:
        """Open a version.

        Args:
            folder: It, with its manifest and shards.

        Raises:
            CatalogError: The manifest can't be read or a shard is not as it says; the message
                names the file.
        """
        manifest = _read_manifest(folder)
        self._folder = folder
        self._shards = [_open_shard(folder, shard, manifest) for shard in manifest.shards]
        self._starts = np.cumsum([0, *(shard.rows for shard in manifest.shards)])[:-1]
        self.shape = manifest.shape
        """(samples, N, C, p, p)."""
        self.grid = manifest.grid
        """Rows and columns of patches."""
        self.mean: NDArray[np.float32] = np.array(manifest.mean, dtype=np.float32)
        """Of each channel, (C,), for pixels in 0 to 1."""
        self.std: NDArray[np.float32] = np.array(manifest.std, dtype=np.float32)
        """Of each channel, (C,), for pixels in 0 to 1."""
        self.fingerprint = manifest.fingerprint
        """Of the source and the parameters."""
        self.unreadable = manifest.unreadable
        """Why a sample has no image, by the sample; its pixels are zero."""

    def __len__(self) -> int:
        """Number of samples."""
        return self.shape[0]

    def __reduce__(self) -> tuple[type[PatchGrids], tuple[Path]]:
        return PatchGrids, (self._folder,)

    def gather(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Read the patch grids of some samples.

        Args:
            rows: int64 of shape (B,), in any order, with repeats.

        Returns:
            uint8 of shape (B, N, C, p, p), in memory of its own.

        Raises:
            IndexError: A row is below 0 or past the last sample.
        """
        outside = rows[(rows < 0) | (rows >= len(self))]
        if len(outside):
            raise IndexError(f"row {outside[0]} of {len(self)} samples")
        out = np.empty((len(rows), *self.shape[1:]), dtype=np.uint8)  # (B, N, C, p, p)
        shards = np.searchsorted(self._starts, rows, side="right") - 1  # (B,)
        rows_in_shard = rows - self._starts[shards]  # (B,)
        order = np.argsort(rows)  # the disk is read forwards
        shards_and_rows = list(
            zip(shards[order].tolist(), rows_in_shard[order].tolist(), strict=True)
        )
        for shard, row in shards_and_rows:
            _ask_for(self._shards[shard], row)
        for place, (shard, row) in zip(order.tolist(), shards_and_rows, strict=True):
            out[place] = self._shards[shard][row]
        for shard in set(shards.tolist()):
            _let_go(self._shards[shard])
        return torch.from_numpy(out)


def _ask_for(shard: NDArray[np.uint8], row: int) -> None:
    """Have the system fetch a row of a mapped shard from the disk, in one piece and at once.

    Otherwise each page that is touched is waited for, with others around it that nobody wants.
    Of 64 rows of 196 KiB that the system's cache did not have, that took 41 to 61 ms against 12;
    of a sparse file, 800 ms against 27. Reading into `out` without the map took 22 and 25.
    """
    memory_map, first = _mapping(shard)
    start = first + row * shard[0].nbytes
    page = start - start % mmap.PAGESIZE
    memory_map.madvise(mmap.MADV_WILLNEED, page, start + shard[0].nbytes - page)


def _let_go(shard: NDArray[np.uint8]) -> None:
    """Give the mapped pages back, or they would add up to the data set's size.

    They stay in the system's cache as long as there is room; only this process's share ends.
    """
    memory_map, _ = _mapping(shard)
    memory_map.madvise(mmap.MADV_DONTNEED)


def _mapping(shard: NDArray[np.uint8]) -> tuple[mmap.mmap, int]:
    """The mapped file, and where in it the rows begin."""
    memmap = cast("np.memmap[Any, np.dtype[np.uint8]]", shard.base)
    return cast("mmap.mmap", memmap.base), memmap.offset


class PatchGridDataset(AtomicDataset[PendingPatchGrids, PatchGrids]):
    """Patch grids in the catalog; always versioned.

    A version whose fingerprint an earlier one has shares that one's shards (hard links, or copies
    where the file system has no links): no pixel is asked for. A version that a dead process left
    unfinished is gone on with, if the fingerprint is the same, and otherwise removed. One process
    writes at a time, others wait.
    """

    versioned: ClassVar[bool] = True  # read by Kedro: a folder can't be replaced in one step

    def save(self, data: PendingPatchGrids) -> None:
        """Write a new version.

        Raises:
            CatalogError: It can't be written, or its source says that it can't be made; there is
                no new version then.
            DatasetError: The version exists already, or the pixels are not what `data` says.
        """
        with _alone(Path(self._filepath)):
            super().save(data)

    def _read(self, path: Path) -> PatchGrids:
        return PatchGrids(path)

    def _write(self, data: PendingPatchGrids, path: Path) -> None:
        unfinished = Path(self._filepath, f".partial-{data.fingerprint}")
        for pattern in (".partial-*", "*/.partial-*"):  # nobody else writes now
            for leftover in Path(self._filepath).glob(pattern):
                if leftover not in {unfinished, path}:
                    shutil.rmtree(leftover)
        if not self._share(data, path):
            write_version(data, unfinished)
            unfinished.rename(path)

    def _preview(self, path: Path) -> Any:
        """What the version says about itself."""
        return _read_manifest(path).model_dump(mode="json")

    def _share(self, new: PendingPatchGrids, folder: Path) -> bool:
        """Link the files of an earlier version with the same pixels, if there is one."""
        for version in map(Path, self.list_versions()):
            try:
                manifest = _read_manifest(version)
                if manifest.fingerprint != new.fingerprint:
                    continue
                PatchGrids(version)
            except CatalogError:
                continue  # damaged; there may be an older one
            new.check_unreadable(manifest.unreadable)
            folder.mkdir()
            for file in (MANIFEST, *(shard.file for shard in manifest.shards)):
                _link(version / file, folder / file)
            return True
        return False


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Be the only process in a block that writes to a folder; the system ends it with the process.

    Raises:
        CatalogError: The folder can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise CatalogError(f"{folder} can't be made ({error}); mend that and run again") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("Waits for another run that writes to %s", folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # the file system has no links, or the file too many
        shutil.copyfile(source, target)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
        if sum(shard.rows for shard in manifest.shards) != manifest.samples:
            raise ValueError(f"its shards do not add up to {manifest.samples} samples")
        return manifest
    except (OSError, ValueError) as error:
        raise CatalogError(
            f"{path} can't be read ({' '.join(str(error).split())}); run the patch stage again"
        ) from error


def _open_shard(folder: Path, shard: Shard, manifest: Manifest) -> NDArray[np.uint8]:
    path = folder / shard.file
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CatalogError(f"{path} can't be read ({error}); run the patch stage again") from error
    if (
        rows.dtype != np.uint8
        or rows.shape != (shard.rows, *manifest.shape[1:])
        or path.stat().st_size != shard.bytes
    ):
        raise CatalogError(f"{path} is not as {MANIFEST} says; run the patch stage again")
    return np.asarray(rows)  # still mapped, without np.memmap's cost for every slice
