"""A few files that only mean something together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from selfie_pipeline.datasets.atomic import AtomicDataset


class FolderDataset(AtomicDataset[Mapping[str, bytes], dict[str, bytes]]):
    """A folder of files by their names, written whole or not at all."""

    def _write(self, data: Mapping[str, bytes], path: Path) -> None:
        path.mkdir()
        for name, content in data.items():
            (path / name).write_bytes(content)

    def _read(self, path: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in sorted(path.iterdir())}
