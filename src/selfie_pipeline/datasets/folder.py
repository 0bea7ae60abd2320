"""Dataset types for folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError

from selfie_pipeline.datasets.atomic import AtomicDataset


class FolderDataset(AtomicDataset[Mapping[str, bytes], dict[str, bytes]]):
    """A folder of files, saved from and loaded as a dictionary of file names to bytes."""

    def _write(self, data: Mapping[str, bytes], path: Path) -> None:
        path.mkdir()
        for name, content in data.items():
            (path / name).write_bytes(content)

    def _read(self, path: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


class FolderPathDataset(AbstractDataset[NoReturn, Path]):
    """The path of a folder, which may not exist yet and whose files the node itself manages."""

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Create a dataset; see `AtomicDataset`."""
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> Path:
        """Return the path of the folder."""
        return self._filepath

    def save(self, data: NoReturn) -> None:  # noqa: ARG002
        """Refuse to save, with a DatasetError."""
        raise DatasetError(f"{self._filepath} is a folder that nodes write into, not an output")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
