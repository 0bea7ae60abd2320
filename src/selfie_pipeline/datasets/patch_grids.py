"""Dataset type for patch grids, and random access to them through memory maps.

A version is a folder of uint8 `.npy` shards and a `manifest.json` that describes them. Shapes: N
patches per image, C channels, patches of p × p pixels.
"""

from __future__ import annotations

import logging
import mmap
import os
import shutil
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from selfie_pipeline.atomic_write import remove
from selfie_pipeline.config import UserError
from selfie_pipeline.datasets.atomic import AtomicDataset, CatalogError
from selfie_pipeline.datasets.patch_grid_manifest import MANIFEST, Manifest, Shard, file_crc32
from selfie_pipeline.datasets.patch_grid_shards import PendingPatchGrids, write_version
from selfie_pipeline.locks import lock
from selfie_pipeline.printable import explain, shorten

logger = logging.getLogger(__name__)


class PatchGrids:
    """Memory-mapped patch grids; opening reads no pixels, and pickling stores only the path."""

    def __init__(self, folder: Path) -> None:
        """Open a version.

        Raises:
            CatalogError: The manifest can't be read, or a shard does not match it; the message
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
        """Mean of each channel, (C,), for pixels in 0 to 1."""
        self.std: NDArray[np.float32] = np.array(manifest.std, dtype=np.float32)
        """Standard deviation of each channel, (C,), for pixels in 0 to 1."""
        self.fingerprint = manifest.fingerprint
        """Hash of the source and the parameters."""
        self.unreadable = manifest.unreadable
        """Reasons of the samples without an image, by sample; their pixels are zero."""

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.shape[0]

    def __reduce__(self) -> tuple[type[PatchGrids], tuple[Path]]:
        return PatchGrids, (self._folder,)

    def gather(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Read the patch grids of some samples.

        Args:
            rows: int64 of shape (B,), in any order, with repeats.

        Returns:
            A copy, uint8 of shape (B, N, C, p, p).

        Raises:
            CatalogError: A row is negative or beyond the last sample.
        """
        outside = rows[(rows < 0) | (rows >= len(self))]
        if len(outside):
            raise CatalogError(
                f"sample {outside[0]} does not exist: {self._folder} has {len(self)} samples; the "
                "table that names it is damaged or of other data: run the patch stage again"
            )
        out = np.empty((len(rows), *self.shape[1:]), dtype=np.uint8)  # (B, N, C, p, p)
        shards = np.searchsorted(self._starts, rows, side="right") - 1  # (B,)
        rows_in_shard = rows - self._starts[shards]  # (B,)
        order = np.argsort(rows)  # sequential reads
        shards_and_rows = list(
            zip(shards[order].tolist(), rows_in_shard[order].tolist(), strict=True)
        )
        for shard, row in shards_and_rows:
            _prefetch_row(self._shards[shard], row)
        for position, (shard, row) in zip(order.tolist(), shards_and_rows, strict=True):
            out[position] = self._shards[shard][row]
        for shard in set(shards.tolist()):
            _release_pages(self._shards[shard])
        return torch.from_numpy(out)

    def read_canvases(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read the entire images of some samples.

        Args:
            rows: int64 of shape (B,), in any order, with repeats.

        Returns:
            A copy, uint8 of shape (B, H, W, C); each channel is a plane in memory.

        Raises:
            CatalogError: A row is negative or beyond the last sample.
        """
        (rows_of_patches, columns), (_, _, c, p, _) = self.grid, self.shape
        # A row of a patch is moved as one item, several times faster than pixel by pixel.
        items = self.gather(rows).numpy().view(f"V{p}")  # (B, N, C, P, 1)
        items = items.reshape(-1, rows_of_patches, columns, c, p)  # (B, R, S, C, P)
        items = np.ascontiguousarray(items.transpose(0, 3, 1, 4, 2))  # (B, C, R, P, S)
        height, width = rows_of_patches * p, columns * p
        planes = items.view(np.uint8).reshape(-1, c, height, width)  # (B, C, H, W)
        return planes.transpose(0, 2, 3, 1)  # (B, H, W, C)


def _prefetch_row(shard: NDArray[np.uint8], row: int) -> None:
    """Have the system read a row of a mapped shard ahead, in one piece.

    Otherwise each page fault waits for the disk, and reads neighbouring pages that nobody needs.
    Of 64 rows of 196 KiB that were not in the page cache, that took 41 to 61 ms against 12; of a
    sparse file, 800 ms against 27. Reading into `out` without the map took 22 and 25.
    """
    memory_map, first = _memory_map(shard)
    start = first + row * shard[0].nbytes
    page = start - start % mmap.PAGESIZE
    memory_map.madvise(mmap.MADV_WILLNEED, page, start + shard[0].nbytes - page)


def _release_pages(shard: NDArray[np.uint8]) -> None:
    """Unmap the pages that were read, so that this process's memory does not grow.

    They stay in the system's page cache as long as there is room.
    """
    memory_map, _ = _memory_map(shard)
    memory_map.madvise(mmap.MADV_DONTNEED)


def _memory_map(shard: NDArray[np.uint8]) -> tuple[mmap.mmap, int]:
    """Return the memory map of a shard, and the offset of its first row in bytes."""
    memmap = cast("np.memmap[Any, np.dtype[np.uint8]]", shard.base)
    return cast("mmap.mmap", memmap.base), memmap.offset


class PatchGridDataset(AtomicDataset[PendingPatchGrids, PatchGrids]):
    """Patch grids, saved from `PendingPatchGrids` and loaded as `PatchGrids`; always versioned.

    If an earlier version has the same fingerprint, a new one shares its shards (hard links, or
    copies where the file system has no links) and no image is read. A version that a killed process
    left unfinished is resumed if the fingerprint is the same, and removed otherwise. One process
    writes at a time; others wait.
    """

    versioned: ClassVar[bool] = True  # read by Kedro: a folder can't be replaced atomically

    def save(self, data: PendingPatchGrids) -> None:
        """Write a new version.

        Raises:
            CatalogError: It can't be written, or its source can't be read; there is no new version
                then.
            DatasetError: The version already exists, or the chunks contradict `data`.
        """
        try:
            with lock(Path(self._filepath), "patch"):
                super().save(data)
        except UserError as error:  # Kedro re-raises only its own errors unchanged
            raise CatalogError(str(error)) from error

    def _read(self, path: Path) -> PatchGrids:
        grids = PatchGrids(path)
        check_pixels(path)
        return grids

    def _write(self, data: PendingPatchGrids, path: Path) -> None:
        unfinished = Path(self._filepath, f".partial-{data.fingerprint}")
        for pattern in (".partial-*", "*/.partial-*"):  # no other process is writing
            for leftover in Path(self._filepath).glob(pattern):
                if leftover not in {unfinished, path}:
                    remove(leftover)
        if not self._link_existing_version(data, path):
            write_version(data, unfinished)
            unfinished.rename(path)

    def _preview(self, path: Path) -> Any:
        """Return the manifest."""
        return _read_manifest(path).model_dump(mode="json")

    def _link_existing_version(self, new: PendingPatchGrids, folder: Path) -> bool:
        """Link the files of an intact version with the same pixels; return False without one."""
        for version in map(Path, self.list_versions()):
            try:
                manifest = _read_manifest(version)
                if manifest.fingerprint != new.fingerprint:
                    continue
                self._read(version)  # checks all of it
            except CatalogError:
                continue  # damaged; try an older one
            folder.mkdir()
            for file in (MANIFEST, *(shard.file for shard in manifest.shards)):
                _link(version / file, folder / file)
            logger.info("Patch grids: the pixels of %s are used again", version.parent.name)
            return True
        return False


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # the file system allows no links, or no more of this file
        shutil.copyfile(source, target)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
        if sum(shard.rows for shard in manifest.shards) != manifest.samples:
            raise ValueError(f"its shards do not have {manifest.samples} samples in total")
        return manifest
    except (OSError, ValueError) as error:
        raise CatalogError(
            f"{path} can't be read ({explain(error)}); run the patch stage again"
        ) from error


_CHECKED: set[tuple[int, int, int]] = set()
"""Device, inode and time of change of the shards whose content this process has checked."""


def check_pixels(folder: Path) -> None:
    """Check the content of a version's shards, of each once in a process.

    Raises:
        CatalogError: The manifest can't be read, or a shard's content is not what was written; the
            message names the file.
    """
    for shard in _read_manifest(folder).shards:
        path = folder / shard.file
        status = path.stat()
        identity = (status.st_dev, status.st_ino, status.st_mtime_ns)
        if shard.crc32 is None or identity in _CHECKED:
            continue
        if file_crc32(path) != shard.crc32:
            raise CatalogError(
                f"{path} is damaged: its content is not what was written; delete the folder "
                f"{folder} and run the patch stage again"
            )
        _CHECKED.add(identity)


def _open_shard(folder: Path, shard: Shard, manifest: Manifest) -> NDArray[np.uint8]:
    path = folder / shard.file
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # of a damaged header, of any type
        reason = shorten(" ".join(str(error).split()))
        raise CatalogError(f"{path} can't be read ({reason}); run the patch stage again") from error
    if (
        rows.dtype != np.uint8
        or rows.shape != (shard.rows, *manifest.shape[1:])
        or path.stat().st_size != shard.bytes
    ):
        raise CatalogError(f"{path} does not match {MANIFEST}; run the patch stage again")
    return np.asarray(rows)  # still mapped, but faster to slice than np.memmap
