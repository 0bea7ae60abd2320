"""The manifest of one version of the patch-grid store, and the progress of an unfinished one."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MANIFEST = "manifest.json"

LEAST_STD = 1e-6
"""Smallest standard deviation that pixels can be divided by."""

_BLOCK_BYTES = 2**22
"""Bytes that are read at once for a checksum."""


class _StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shard(_StrictModel):
    """A shard file of a version."""

    file: Annotated[str, Field(pattern=r"^shard-\d{5}\.npy$")]
    rows: int
    bytes: int
    crc32: int | None = None
    """CRC-32 of the file; None in versions of earlier commits."""


class _SealedModel(_StrictModel):
    """A file with a checksum of its own."""

    crc32: int | None = None
    """CRC-32 of the other fields as JSON; None in files of earlier commits."""

    def sealed(self) -> Self:
        """Return a copy with the checksum."""
        return self.model_copy(update={"crc32": self._content_crc32()})

    def _content_crc32(self) -> int:
        return zlib.crc32(self.model_dump_json(exclude={"crc32"}).encode())

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        if self.crc32 not in {None, self._content_crc32()}:
            raise ValueError("its content is not what was written")
        return self


class Manifest(_SealedModel):
    """The description of a version, stored as manifest.json."""

    format: Literal[1]
    fingerprint: str
    samples: int
    grid: tuple[int, int]
    channels: int
    patch_size: int
    mean: list[float]
    """Mean of each channel over the readable statistics rows, in 0 to 1."""
    std: list[float]
    """Population standard deviation of each channel over the same rows, in 0 to 1."""
    shards: list[Shard]
    unreadable: dict[int, str] = {}
    """Reasons of the samples without an image, by sample; their pixels are zero."""

    @model_validator(mode="after")
    def _check_statistics(self) -> Self:
        for name, values, least in (("mean", self.mean, 0), ("std", self.std, LEAST_STD)):
            if len(values) != self.channels or not all(least <= value <= 1 for value in values):
                raise ValueError(
                    f"{name} = {values}, not {self.channels} numbers from {least:g} to 1"
                )
        return self

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(samples, N, C, p, p)."""
        patches = self.grid[0] * self.grid[1]
        return (self.samples, patches, self.channels, self.patch_size, self.patch_size)


class Progress(_SealedModel):
    """The state from which an interrupted write resumes, stored as progress.json."""

    fingerprint: str
    written: int = 0
    """Number of samples written."""
    sums: list[list[int]] = []
    """For each channel of the statistics rows: number, sum and sum of squares of the values."""
    unreadable: dict[int, str] = {}
    checksums: list[int] = []
    """CRC-32 of each shard so far."""


def file_crc32(path: Path) -> int:
    """Compute the CRC-32 of a file's content.

    Raises:
        OSError: The file can't be read.
    """
    checksum = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum
