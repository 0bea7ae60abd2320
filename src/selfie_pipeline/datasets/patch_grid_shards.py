"""Writing a version of the patch-grid store: shards, statistics, manifest.

The folder that is written to can be left at any byte and taken up again. Shapes: N patches of an
image, C channels, p the side of a patch, pixels.
"""

from __future__ import annotations

import io
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from selfie_pipeline.config import UserError
from selfie_pipeline.datasets.atomic import atomic_write

logger = logging.getLogger(__name__)

SHARD_BYTES = 2**30
"""Most bytes of pixels in a shard; an image is never split."""

_EXACT_SQUARES = 2**24 // 255**2
"""So many squares of pixel values add up without rounding in single precision."""

SECONDS_BETWEEN_MARKS = 1.0
"""About how much work a process that dies loses, and how far the disk may be behind at the end."""

MANIFEST = "manifest.json"
_MARK = "progress.json"

Chunk = tuple[NDArray[np.uint8], Mapping[int, str]]
"""Patch grids (n, N, C, p, p) of the next n samples; and why some have none, by the sample."""


@dataclass(frozen=True)
class PendingPatchGrids:
    """Patch grids that are still to be cut."""

    fingerprint: str
    """Equal only if all pixels and the statistics rows are: of the source and the parameters."""
    samples: int
    grid: tuple[int, int]
    """Rows and columns of patches; N is their product."""
    patch_size: int
    """p."""
    chunks: Callable[[int], Iterator[Chunk]]
    """Gives the patch grids from a sample on; not called if all pixels are there."""
    statistics_rows: NDArray[np.bool_]
    """Of shape (samples,): the rows that mean and standard deviation are taken over, where they
    are readable."""
    check_unreadable: Callable[[Mapping[int, str]], None] = lambda _: None
    """Told which samples turned out to be unreadable so far; may end the work with a UserError."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shard(_Strict):
    """A file of a version."""

    file: Annotated[str, Field(pattern=r"^shard-\d{5}\.npy$")]
    rows: int
    bytes: int


class Manifest(_Strict):
    """What a version says about itself."""

    format: Literal[1]
    fingerprint: str
    samples: int
    grid: tuple[int, int]
    channels: int
    patch_size: int
    mean: list[float]
    """Of each channel, over the readable statistics rows, in 0 to 1."""
    std: list[float]
    """The same rows' standard deviation (of the population), in 0 to 1."""
    shards: list[Shard]
    unreadable: dict[int, str] = {}
    """Why a sample has no image, by the sample; its pixels are zero."""

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(samples, N, C, p, p)."""
        patches = self.grid[0] * self.grid[1]
        return (self.samples, patches, self.channels, self.patch_size, self.patch_size)


class _Mark(_Strict):
    """How far a version is written; all that is needed to go on."""

    fingerprint: str
    written: int = 0
    sums: list[list[int]] = []
    """Of each channel in the statistics rows: how many values, their sum and their squares' sum."""
    unreadable: dict[int, str] = {}


def write_version(new: PendingPatchGrids, folder: Path) -> Manifest:
    """Write a version, in one pass and with constant memory, or go on with it.

    Args:
        new: What to write.
        folder: Where to; absent, or left by an earlier call with the same `new` that did not
            finish. If this call does not finish either, what can be gone on with stays there.

    Returns:
        The manifest, which lies in the folder, too.

    Raises:
        ValueError: The chunks or the statistics rows are not what `new` says.
        UserError: Too many samples are unreadable, or all statistics rows.
    """
    if new.statistics_rows.shape != (new.samples,) or not new.statistics_rows.any():
        raise ValueError(f"statistics_rows does not mark any of {new.samples} rows")
    try:
        with ThreadPoolExecutor(1) as thread:
            writer = _ShardWriter(folder, new, thread)
            _write_all(writer, new)
            writer.mark()
            writer.marked()
    finally:
        if not (folder / _MARK).exists():
            shutil.rmtree(folder, ignore_errors=True)
    mean, std = _moments(writer.sums)
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
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
    (folder / _MARK).unlink()
    return manifest


def _write_all(writer: _ShardWriter, new: PendingPatchGrids) -> None:
    """Write what is not there yet.

    Raises:
        ValueError: The chunks are not what `new` says.
        UserError: As `write_version`.
    """
    if writer.unreadable:
        new.check_unreadable(writer.unreadable)
    with tqdm(
        initial=writer.written,
        total=new.samples,
        desc="Cutting patches",
        unit=" images",
        delay=5,
        disable=None,
    ) as progress:
        for patches, unreadable in new.chunks(writer.written):
            writer.append(patches, unreadable)
            if unreadable:
                new.check_unreadable(writer.unreadable)
            writer.mark_now_and_then()
            progress.update(len(patches))
    if writer.written != new.samples:
        raise ValueError(f"{writer.written} samples came, not {new.samples}")
    if not writer.sums.any():
        raise UserError(
            "none of the training images can be read, such as sample "
            f"{next(iter(writer.unreadable.items()))}; look at data.folder"
        )


class _ShardWriter:
    """Appends rows to shards, sums their pixels' values, and marks how far it is.

    Files are written, not mapped: pages written through a map would count as this process's
    memory.
    """

    def __init__(self, folder: Path, new: PendingPatchGrids, thread: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._new = new
        self._thread = thread
        self._marking: Future[None] = Future()
        self._marking.set_result(None)
        self._marked_at = time.monotonic()
        self._not_flushed: set[Path] = set()
        try:
            self._begin(_read_mark(folder, new.fingerprint))
        except (OSError, ValueError) as error:
            logger.warning("%s can't be gone on with (%s): it is written anew", folder, error)
            self._begin(_Mark(fingerprint=new.fingerprint))
        if self.written:
            logger.info("Patch grids: goes on after sample %d of %d", self.written, new.samples)

    def _begin(self, mark: _Mark) -> None:
        """Take up a mark; only the rows that it knows of are left."""
        self.written = mark.written
        self.sums = np.array(mark.sums, dtype=object).reshape(-1, 3)  # (C, 3): ints of any size
        self.unreadable = dict(mark.unreadable)
        self._folder.mkdir(exist_ok=True)
        expected = {shard.file: shard.bytes for shard in self.shards()}
        for path in self._folder.glob("shard-*"):
            if path.name not in expected:
                path.unlink()
        for name, size in expected.items():
            if (self._folder / name).stat().st_size < size:
                raise ValueError(f"{name} is shorter than {size} bytes")
            os.truncate(self._folder / name, size)

    @property
    def _row_shape(self) -> tuple[int, int, int, int]:
        """(N, C, p, p)."""
        size = self._new.patch_size
        return (math.prod(self._new.grid), len(self.sums), size, size)

    def append(self, chunk: NDArray[np.uint8], unreadable: Mapping[int, str]) -> None:
        """Write rows (n, N, C, p, p).

        Raises:
            ValueError: They are not what was announced, or too many.
        """
        if not self.written and chunk.ndim == 5:  # noqa: PLR2004  (n, N, C, p, p)
            self.sums = np.zeros((chunk.shape[2], 3), dtype=object)
        if chunk.dtype != np.uint8 or chunk.shape[1:] != self._row_shape:
            raise ValueError(
                f"a chunk is {chunk.dtype} of shape {chunk.shape}, not uint8 of shape "
                f"{('n', *self._row_shape)}"
            )
        if self.written + len(chunk) > self._new.samples:
            raise ValueError(
                f"{self.written + len(chunk)} samples or more came, not {self._new.samples}"
            )
        self._add_up(chunk, unreadable)
        self.unreadable.update(unreadable)
        rows_a_shard = self._rows_a_shard()
        while len(chunk):
            index, row = divmod(self.written, rows_a_shard)
            here = chunk[: rows_a_shard - row]
            with self._path(index).open("ab") as file:
                if row == 0:
                    file.write(self._header(index))
                file.write(np.ascontiguousarray(here).data)
            self._not_flushed.add(self._path(index))
            self.written += len(here)
            chunk = chunk[len(here) :]

    def _add_up(self, chunk: NDArray[np.uint8], unreadable: Mapping[int, str]) -> None:
        counted = self._new.statistics_rows[self.written : self.written + len(chunk)].copy()  # (n,)
        counted[[sample - self.written for sample in unreadable]] = False
        for image in chunk[counted] if not counted.all() else chunk:  # (N, C, p, p)
            self.sums += _sums(image)

    def mark(self) -> None:
        """Make what has been written something to go on with; in another thread.

        The disk is busy then while the next images are decoded, not afterwards.
        """
        mark = _Mark(
            fingerprint=self._new.fingerprint,
            written=self.written,
            sums=self.sums.tolist(),
            unreadable=self.unreadable,
        )
        files, self._not_flushed = self._not_flushed, set()
        self._marked_at = time.monotonic()
        self._marking = self._thread.submit(_write_mark, self._folder, mark, files)

    def mark_now_and_then(self) -> None:
        """Mark, if the last time is a while ago and done."""
        if self._marking.done() and time.monotonic() >= self._marked_at + SECONDS_BETWEEN_MARKS:
            self.marked()
            self.mark()

    def marked(self) -> None:
        """Wait for the last mark.

        Raises:
            OSError, CatalogError: It could not be written.
        """
        self._marking.result()

    def shards(self) -> list[Shard]:
        """What has been written."""
        if not self.written:
            return []
        step = self._rows_a_shard()
        row_bytes = math.prod(self._row_shape)
        return [
            Shard(
                file=self._path(index).name,
                rows=(rows := min(step, self.written - start)),
                bytes=len(self._header(index)) + rows * row_bytes,
            )
            for index, start in enumerate(range(0, self.written, step))
        ]

    def _rows_a_shard(self) -> int:
        return max(1, SHARD_BYTES // math.prod(self._row_shape))

    def _header(self, index: int) -> bytes:
        """What a shard begins with: that of an array of all its rows."""
        step = self._rows_a_shard()
        rows = min(step, self._new.samples - index * step)
        header = {"descr": "|u1", "fortran_order": False, "shape": (rows, *self._row_shape)}
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, header)
        return file.getvalue()

    def _path(self, index: int) -> Path:
        return self._folder / f"shard-{index:05d}.npy"


def _write_mark(folder: Path, mark: _Mark, files: set[Path]) -> None:
    """Write a mark, whole or not at all, when the pixels that it speaks of are on the disk."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    with atomic_write(folder / _MARK) as path:
        path.write_text(mark.model_dump_json(), encoding="utf-8")


def _read_mark(folder: Path, fingerprint: str) -> _Mark:
    try:
        mark = _Mark.model_validate_json((folder / _MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return _Mark(fingerprint=fingerprint)
    return mark if mark.fingerprint == fingerprint else _Mark(fingerprint=fingerprint)


def _sums(image: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Of an image's patches, (N, C, p, p), for each channel: (C, 3), as `_Mark.sums` has them."""
    n, channels, p, _ = image.shape
    run = max(length for length in range(1, _EXACT_SQUARES + 1) if p * p % length == 0)
    values = image.reshape(n, channels, -1, run).astype(np.float32)  # (N, C, runs, run)
    totals = np.vecdot(values, np.ones(run, dtype=np.float32))  # (N, C, runs)
    squares = np.vecdot(values, values)  # (N, C, runs)
    counts = np.full(channels, n * p * p)  # (C,)
    of_channels = [part.sum(axis=(0, 2), dtype=np.int64) for part in (totals, squares)]  # (C,) each
    return np.stack([counts, *of_channels], axis=1)


def _moments(sums: NDArray[np.object_]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, values 0 to 255 taken as 0 to 1.

    The sums, (C, 3), are whole numbers of any size, so that nothing is lost before the last
    division.
    """
    mean, std = [], []
    for values, total, squares in sums.tolist():
        mean.append(total / (255 * values))
        std.append(math.sqrt(values * squares - total**2) / (255 * values))
    return mean, std
