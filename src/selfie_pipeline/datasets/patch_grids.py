"""The patch-grid store: pixels are written once, and read from where they lie.

A version is a folder of uint8 `.npy` shards and a `manifest.json` that describes them. Shapes:
N patches of an image, C channels, p the side of a patch, pixels.
"""

from __future__ import annotations

import math
import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from selfie_pipeline.datasets.whole import CatalogError, WholeDataset

SHARD_BYTES = 2**30
"""Most bytes of pixels in a shard; an image is never split."""

MAPPED_BYTES = 2**30
"""Most bytes of a store that are mapped into a process at once, about."""

_FAULT_BYTES = 2**16  # Linux maps so much around a byte that is read
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class NewPatchGrids:
    """Patch grids that are still to be cut."""

    fingerprint: str
    """Equal only if all pixels and the statistics rows are: of the source and the parameters."""
    samples: int
    grid: tuple[int, int]
    """Rows and columns of patches; N is their product."""
    patch_size: int
    """p."""
    chunks: Callable[[], Iterator[NDArray[np.uint8]]]
    """Gives uint8 of shape (n, N, C, p, p), row after row; not called if the pixels are there."""
    statistics_rows: NDArray[np.bool_]
    """Of shape (samples,): the rows that mean and standard deviation are taken over."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Shard(_Strict):
    file: Annotated[str, Field(pattern=r"^shard-\d{5}\.npy$")]
    rows: int
    bytes: int


class _Manifest(_Strict):
    format: Literal[1]
    fingerprint: str
    samples: int
    grid: tuple[int, int]
    channels: int
    patch_size: int
    mean: list[float]
    """Of each channel, over the statistics rows, in 0 to 1."""
    std: list[float]
    """The same rows' standard deviation (of the population), in 0 to 1."""
    shards: list[_Shard]

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(samples, N, C, p, p)."""
        patches = self.grid[0] * self.grid[1]
        return (self.samples, patches, self.channels, self.patch_size, self.patch_size)


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
        self._rows_mapped = 0
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
        out = np.empty((len(rows), *self.shape[1:]), dtype=np.uint8)
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        rows_in_shard = rows - self._starts[shards]
        order = np.argsort(rows)  # the disk is read forwards
        for place, shard, row in zip(
            order.tolist(), shards[order].tolist(), rows_in_shard[order].tolist(), strict=True
        ):
            out[place] = self._shards[shard][row]
        self._let_go(len(rows))
        return torch.from_numpy(out)

    def _let_go(self, rows_read: int) -> None:
        """Give mapped pages back now and then, or they would add up to the data set's size.

        They stay in the system's cache as long as there is room; only this process's share ends.
        """
        self._rows_mapped += rows_read
        if self._rows_mapped * (math.prod(self.shape[1:]) + _FAULT_BYTES) < MAPPED_BYTES:
            return
        for rows in self._shards:
            memory_map: mmap.mmap = rows.base.base  # type: ignore[union-attr, assignment]
            memory_map.madvise(mmap.MADV_DONTNEED)
        self._rows_mapped = 0


class PatchGridDataset(WholeDataset[NewPatchGrids, PatchGrids]):
    """Patch grids in the catalog; always versioned.

    A version whose fingerprint an earlier one has shares that one's shards (hard links, or copies
    where the file system has no links): no pixel is asked for.
    """

    versioned: ClassVar[bool] = True  # read by Kedro: a folder can't be replaced in one step

    def _read(self, path: Path) -> PatchGrids:
        return PatchGrids(path)

    def _write(self, data: NewPatchGrids, path: Path) -> None:
        path.mkdir()
        manifest = self._share(data, path) or _write_shards(data, path)
        (path / _MANIFEST).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")

    def _share(self, new: NewPatchGrids, folder: Path) -> _Manifest | None:
        """Link the shards of an earlier version with the same pixels, if there is one."""
        for version in map(Path, self.list_versions()):
            try:
                manifest = _read_manifest(version)
                if manifest.fingerprint != new.fingerprint:
                    continue
                PatchGrids(version)
            except CatalogError:
                continue  # damaged; there may be an older one
            for shard in manifest.shards:
                _link(version / shard.file, folder / shard.file)
            return manifest
        return None


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # the file system has no links, or the file too many
        shutil.copyfile(source, target)


def _write_shards(new: NewPatchGrids, folder: Path) -> _Manifest:
    """Write the pixels and take their statistics, in one pass and with constant memory.

    Raises:
        ValueError: The chunks or the statistics rows are not what `new` says.
    """
    if new.statistics_rows.shape != (new.samples,) or not new.statistics_rows.any():
        raise ValueError(f"statistics_rows does not mark any of {new.samples} rows")
    writer: _ShardWriter | None = None
    with tqdm(
        total=new.samples, desc="Cutting patches", unit=" images", delay=5, disable=None
    ) as progress:
        for chunk in _checked(new):
            writer = writer or _ShardWriter(folder, new.samples, chunk.shape[1:])
            first = writer.written
            writer.append(chunk, new.statistics_rows[first : first + len(chunk)])
            progress.update(len(chunk))
    if writer is None or writer.written != new.samples:
        raise ValueError(f"{writer.written if writer else 0} samples came, not {new.samples}")
    mean, std = _moments(writer.histogram)
    return _Manifest(
        format=1,
        fingerprint=new.fingerprint,
        samples=new.samples,
        grid=new.grid,
        channels=len(mean),
        patch_size=new.patch_size,
        mean=mean,
        std=std,
        shards=writer.shards(),
    )


def _checked(new: NewPatchGrids) -> Iterator[NDArray[np.uint8]]:
    """The chunks, each of which is what it has to be; one sample too many is an error."""
    arrived = 0
    channels: int | None = None
    for chunk in new.chunks():
        if channels is None and chunk.ndim == 5:  # noqa: PLR2004  (n, N, C, p, p)
            channels = chunk.shape[2]
        row_shape = (math.prod(new.grid), channels, new.patch_size, new.patch_size)
        if chunk.dtype != np.uint8 or chunk.shape[1:] != row_shape:
            raise ValueError(
                f"a chunk is {chunk.dtype} of shape {chunk.shape}, not uint8 of shape "
                f"{('n', *row_shape)}"
            )
        arrived += len(chunk)
        if arrived > new.samples:
            raise ValueError(f"{arrived} samples or more came, not {new.samples}")
        yield chunk


class _ShardWriter:
    """Appends rows to shards and counts their pixels' values.

    Files are written, not mapped: pages written through a map would count as this process's
    memory.
    """

    def __init__(self, folder: Path, samples: int, row_shape: tuple[int, ...]) -> None:
        self._folder = folder
        self._rows = max(1, SHARD_BYTES // math.prod(row_shape))
        self._starts = range(0, samples, self._rows)
        self._samples = samples
        self.written = 0
        self.histogram = np.zeros((row_shape[1], 256), dtype=np.int64)
        """How often a channel has each value in the statistics rows: exact, in any order."""
        for index in range(len(self._starts)):
            with self._path(index).open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False}
                shape = (self._length(index), *row_shape)
                np.lib.format.write_array_header_1_0(file, {**header, "shape": shape})

    def append(self, chunk: NDArray[np.uint8], counted: NDArray[np.bool_]) -> None:
        """Write rows (n, N, C, p, p), of which those that `counted` (n,) marks are counted."""
        for channel in range(len(self.histogram)):
            values = chunk[counted, :, channel].reshape(-1)
            self.histogram[channel] += np.bincount(values, minlength=256)
        while len(chunk):
            index, row = divmod(self.written, self._rows)
            here = chunk[: self._rows - row]
            with self._path(index).open("ab") as file:
                file.write(np.ascontiguousarray(here).data)
            self.written += len(here)
            chunk = chunk[len(here) :]

    def shards(self) -> list[_Shard]:
        """What has been written, for the manifest."""
        return [
            _Shard(
                file=self._path(index).name,
                rows=self._length(index),
                bytes=self._path(index).stat().st_size,
            )
            for index in range(len(self._starts))
        ]

    def _path(self, index: int) -> Path:
        return self._folder / f"shard-{index:05d}.npy"

    def _length(self, index: int) -> int:
        return min(self._rows, self._samples - self._starts[index])


def _moments(histogram: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, values 0 to 255 taken as 0 to 1.

    Sums are whole numbers of any size, so that nothing is lost before the last division.
    """
    mean, std = [], []
    values = np.arange(256)
    for counts in histogram:
        pixels = int(counts.sum())
        total, squares = int(counts @ values), int(counts @ values**2)
        mean.append(total / (255 * pixels))
        std.append(math.sqrt(pixels * squares - total**2) / (255 * pixels))
    return mean, std


def _read_manifest(folder: Path) -> _Manifest:
    path = folder / _MANIFEST
    try:
        manifest = _Manifest.model_validate_json(path.read_text(encoding="utf-8"))
        if sum(shard.rows for shard in manifest.shards) != manifest.samples:
            raise ValueError(f"its shards do not add up to {manifest.samples} samples")
        return manifest
    except (OSError, ValueError) as error:
        raise CatalogError(
            f"{path} can't be read ({' '.join(str(error).split())}); run the patch stage again"
        ) from error


def _open_shard(folder: Path, shard: _Shard, manifest: _Manifest) -> NDArray[np.uint8]:
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
        raise CatalogError(f"{path} is not as {_MANIFEST} says; run the patch stage again")
    return np.asarray(rows)  # still mapped, without np.memmap's cost for every slice
