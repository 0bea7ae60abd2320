"""Writes one version of the patch-grid store: shards, channel statistics and a manifest.

Writing can be interrupted at any byte and resumed. Shapes: N patches per image, C channels, patches
of p × p pixels.
"""

from __future__ import annotations

import io
import logging
import math
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selfie_pipeline.atomic_write import atomic_write, fsync
from selfie_pipeline.config import UserError
from selfie_pipeline.datasets.patch_grid_manifest import (
    LEAST_STD,
    MANIFEST,
    Manifest,
    Progress,
    Shard,
    file_crc32,
)
from selfie_pipeline.progress import track

logger = logging.getLogger(__name__)

SHARD_BYTES = 2**30
"""Maximum bytes of pixels per shard; an image is never split."""

_MAX_EXACT_SQUARES = 2**24 // 255**2
"""Number of squared pixel values that add up without rounding in single precision."""

_SUMMED_BYTES = 2**18
"""Bytes of pixels whose statistics are computed together, so that they stay in a CPU cache."""

PROGRESS_INTERVAL_S = 1.0
"""Seconds between two saves of the progress: the work that a killed process loses."""

_PROGRESS = "progress.json"

_CHANNELS = 3
"""C: red, green and blue."""

PatchChunk = tuple[NDArray[np.uint8], Mapping[int, str]]
"""Patch grids (n, N, C, p, p) of the next n samples, and the reasons of the unreadable ones."""


@dataclass(frozen=True)
class PendingPatchGrids:
    """Patch grids that have not been cut yet."""

    fingerprint: str
    """Hash of source and parameters; equal only if all pixels and statistics rows are."""
    samples: int
    grid: tuple[int, int]
    """Rows and columns of patches; N is their product."""
    patch_size: int
    """p."""
    chunks: Callable[[int], Iterator[PatchChunk]]
    """Function that yields the patch grids from a given sample on; only called if some are
    missing. It may raise UserError."""
    statistics_rows: NDArray[np.bool_]
    """Mask of shape (samples,): the rows over which mean and standard deviation are computed,
    except for unreadable ones."""

    @property
    def row_shape(self) -> tuple[int, int, int, int]:
        """The shape of one sample, (N, C, p, p)."""
        return (math.prod(self.grid), _CHANNELS, self.patch_size, self.patch_size)


def write_version(new: PendingPatchGrids, folder: Path) -> Manifest:
    """Write a version, or resume writing it, in one pass and with constant memory.

    Args:
        new: The patch grids.
        folder: Destination; absent, or left unfinished by an earlier call with the same `new`. If
            this call fails, the progress made stays there.

    Returns:
        The manifest, which is also stored in the folder.

    Raises:
        ValueError: The chunks or the statistics rows contradict `new`.
        UserError: The chunks raise it, all statistics rows are unreadable, or all pixels of a
            channel are equal.
    """
    if new.statistics_rows.shape != (new.samples,) or not new.statistics_rows.any():
        raise ValueError(f"statistics_rows must select one or more of {new.samples} rows")
    try:
        with ThreadPoolExecutor(1) as executor:
            writer = _ShardWriter(folder, new, executor)
            _write_chunks(writer, new)
            writer.save_progress()
            writer.wait_for_progress()
    finally:
        if not (folder / _PROGRESS).exists():
            shutil.rmtree(folder, ignore_errors=True)
    mean, std = _mean_and_std(writer.sums)
    if min(std) < LEAST_STD:
        shutil.rmtree(folder)
        raise UserError(
            f"the training pixels have the standard deviations {std}, so they can't be normalised: "
            "all pixels of a channel are equal; check data.folder"
        )
    manifest = Manifest(
        format=1,
        fingerprint=new.fingerprint,
        samples=new.samples,
        grid=new.grid,
        channels=len(mean),
        patch_size=new.patch_size,
        mean=mean,
        std=std,
        shards=writer.shards(),
        unreadable=writer.unreadable,
    ).sealed()
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
    (folder / _PROGRESS).unlink()
    return manifest


def _write_chunks(writer: _ShardWriter, new: PendingPatchGrids) -> None:
    """Write the missing samples; raise the errors of `write_version`."""
    with track(
        "Cutting patches", new.samples, unit=" images", initial=writer.written
    ) as progress_bar:
        for patches, unreadable in new.chunks(writer.written):
            writer.append(patches, unreadable)
            writer.save_progress_if_due()
            progress_bar.update(len(patches))
    if writer.written != new.samples:
        raise ValueError(f"the chunks have {writer.written} samples, not {new.samples}")
    if not writer.sums.any():
        raise UserError(
            "none of the training images can be read, such as sample "
            f"{next(iter(writer.unreadable.items()))}; check data.folder"
        )


class _ShardWriter:
    """A writer that appends rows to shards, adds up channel statistics and saves its progress.

    It writes files instead of memory maps, whose dirty pages would count as this process's memory.
    """

    def __init__(self, folder: Path, new: PendingPatchGrids, executor: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._new = new
        self._executor = executor
        self._row_bytes = math.prod(new.row_shape)
        self._rows_per_shard = max(1, SHARD_BYTES // self._row_bytes)
        self._saving: Future[None] = Future()
        self._saving.set_result(None)
        self._saved_at = time.monotonic()
        self._unflushed: set[Path] = set()
        try:
            self._restore(_read_progress(folder, new.fingerprint))
        except (OSError, ValueError) as error:
            logger.warning("%s can't be resumed (%s): restarting from scratch", folder, error)
            self._restore(Progress(fingerprint=new.fingerprint))
        if self.written:
            logger.info("Patch grids: resumes after sample %d of %d", self.written, new.samples)

    def _restore(self, progress: Progress) -> None:
        """Restore the state of the progress, and truncate the shards to the rows it counts."""
        self.written = progress.written
        sums = progress.sums or [[0, 0, 0]] * _CHANNELS
        self.sums = np.array(sums, dtype=object)  # (C, 3): Python ints
        self.unreadable = dict(progress.unreadable)
        shards = -(-self.written // self._rows_per_shard)
        self._checksums = [*progress.checksums, *[0] * (shards - len(progress.checksums))]
        self._folder.mkdir(exist_ok=True)
        expected = {shard.file: shard.bytes for shard in self.shards()}
        for path in self._folder.glob("shard-*"):
            if path.name not in expected:
                path.unlink()
        for name, size in expected.items():
            if (self._folder / name).stat().st_size < size:
                raise ValueError(f"{name} is shorter than {size} bytes")
            os.truncate(self._folder / name, size)
        if len(progress.checksums) < shards:  # an earlier commit wrote it
            self._checksums = [file_crc32(self._folder / name) for name in expected]

    def append(self, chunk: NDArray[np.uint8], unreadable: Mapping[int, str]) -> None:
        """Write rows (n, N, C, p, p).

        Raises:
            ValueError: Their dtype or shape is not the expected one, or there are too many.
        """
        if chunk.dtype != np.uint8 or chunk.shape[1:] != self._new.row_shape:
            raise ValueError(
                f"a chunk is {chunk.dtype} of shape {chunk.shape}, not uint8 of shape "
                f"{('n', *self._new.row_shape)}"
            )
        if self.written + len(chunk) > self._new.samples:
            raise ValueError(
                f"the chunks have {self.written + len(chunk)} or more samples, "
                f"not {self._new.samples}"
            )
        self._add_statistics(chunk, unreadable)
        self.unreadable.update(unreadable)
        while len(chunk):
            index, row = divmod(self.written, self._rows_per_shard)
            part = chunk[: self._rows_per_shard - row]
            path = self._shard_path(index)
            with path.open("ab") as file:
                if row == 0:
                    file.write(self._shard_header(index))
                    self._checksums.append(zlib.crc32(self._shard_header(index)))
                pixels = np.ascontiguousarray(part).data
                file.write(pixels)
                self._checksums[index] = zlib.crc32(pixels, self._checksums[index])
            self._unflushed.add(path)
            self.written += len(part)
            chunk = chunk[len(part) :]

    def _add_statistics(self, chunk: NDArray[np.uint8], unreadable: Mapping[int, str]) -> None:
        counted = self._new.statistics_rows[self.written : self.written + len(chunk)].copy()  # (n,)
        counted[[sample - self.written for sample in unreadable]] = False
        images = chunk if counted.all() else chunk[counted]  # (m, N, C, p, p)
        step = max(1, _SUMMED_BYTES // chunk[0].nbytes)
        for first in range(0, len(images), step):
            patches = images[first : first + step].reshape(-1, *chunk.shape[2:])  # (k · N, C, p, p)
            self.sums += _channel_sums(patches)

    def save_progress(self) -> None:
        """Start saving on the other thread; raise the OSError of the previous save if it failed."""
        self.wait_for_progress()
        progress = Progress(
            fingerprint=self._new.fingerprint,
            written=self.written,
            sums=self.sums.tolist(),
            unreadable=self.unreadable,
            checksums=self._checksums,
        )
        files, self._unflushed = self._unflushed, set()
        self._saved_at = time.monotonic()
        self._saving = self._executor.submit(_write_progress, self._folder, progress, files)

    def save_progress_if_due(self) -> None:
        """Save the progress if the last save has finished and is `PROGRESS_INTERVAL_S` old."""
        if self._saving.done() and time.monotonic() >= self._saved_at + PROGRESS_INTERVAL_S:
            self.save_progress()

    def wait_for_progress(self) -> None:
        """Wait until the progress is saved, or raise the OSError for which it was not."""
        self._saving.result()

    def shards(self) -> list[Shard]:
        """Return the shards that have been written."""
        step = self._rows_per_shard
        return [
            Shard(
                file=self._shard_path(index).name,
                rows=(rows := min(step, self.written - start)),
                bytes=len(self._shard_header(index)) + rows * self._row_bytes,
                crc32=self._checksums[index],
            )
            for index, start in enumerate(range(0, self.written, step))
        ]

    def _shard_header(self, index: int) -> bytes:
        """Return the `.npy` header of a shard with all its rows."""
        step = self._rows_per_shard
        rows = min(step, self._new.samples - index * step)
        header = {"descr": "|u1", "fortran_order": False, "shape": (rows, *self._new.row_shape)}
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, header)
        return file.getvalue()

    def _shard_path(self, index: int) -> Path:
        return self._folder / f"shard-{index:05d}.npy"


def _write_progress(folder: Path, progress: Progress, files: set[Path]) -> None:
    """Write progress.json atomically, after forcing the shards that it counts to the disk."""
    for path in files:
        fsync(path)
    with atomic_write(folder / _PROGRESS) as path:
        path.write_text(progress.sealed().model_dump_json(), encoding="utf-8")


def _read_progress(folder: Path, fingerprint: str) -> Progress:
    """Read progress.json; return no progress if it is missing, damaged or of other pixels."""
    try:
        progress = Progress.model_validate_json((folder / _PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Progress(fingerprint=fingerprint)
    is_sealed = progress.crc32 is not None or not progress.checksums  # earlier commits had neither
    usable = is_sealed and progress.fingerprint == fingerprint
    return progress if usable else Progress(fingerprint=fingerprint)


def _channel_sums(patches: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Sum up patches, (N, C, p, p).

    Returns:
        Number, sum and sum of squares of each channel's values, (C, 3); exact.
    """
    n, channels, p, _ = patches.shape
    run = max(length for length in range(1, _MAX_EXACT_SQUARES + 1) if p * p % length == 0)
    values = patches.reshape(n, channels, -1, run).astype(np.float32)  # (N, C, runs, run)
    totals = np.vecdot(values, np.ones(run, dtype=np.float32))  # (N, C, runs)
    squares = np.vecdot(values, values)  # (N, C, runs)
    counts = np.full(channels, n * p * p)  # (C,)
    per_channel = [part.sum(axis=(0, 2), dtype=np.int64) for part in (totals, squares)]  # (C,) each
    return np.stack([counts, *per_channel], axis=1)  # (C, 3)


def _mean_and_std(sums: NDArray[np.object_]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel, scaled from 0–255 to 0–1.

    The sums, (C, 3), are Python integers, so the final division is the only one that rounds.
    """
    mean, std = [], []
    for count, total, squares in sums.tolist():
        mean.append(total / (255 * count))
        std.append(math.sqrt(count * squares - total**2) / (255 * count))
    return mean, std
