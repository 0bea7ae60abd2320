"""Dataset type that collects the results of many runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any, NoReturn

from kedro.io.core import AbstractDataset
from kedro_datasets._typing import JSONPreview

from selfie_pipeline.datasets.atomic import CatalogError


class AllVersionsDataset(AbstractDataset[NoReturn, list[dict[str, Any]]]):
    """All versions of all versioned JSON files that match a pattern; read-only.

    Each cell of an experiment saves to a different path. `data/08_reporting/digits/**/metrics.json`
    matches the folders `metrics.json/`, at any depth, in which Kedro stores
    `<version>/metrics.json`.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Create a dataset without accessing the disk.

        Args:
            filepath: Glob pattern of the files, in which `**` matches any number of folders.
            metadata: Metadata for plugins, such as Kedro-Viz's layer.
        """
        self._filepath = filepath
        self.metadata = metadata

    def load(self) -> list[dict[str, Any]]:
        """Load all versions.

        Returns:
            The dictionary of each file, in the order of the paths, with its version (str) added as
            "version"; an empty list if no file matches.

        Raises:
            CatalogError: A file is damaged; the message names it.
        """
        return [_read(path) | {"version": path.parent.name} for path in self._versions()]

    def save(self, data: NoReturn) -> None:  # noqa: ARG002
        """Refuse to save.

        Raises:
            CatalogError: Always.
        """
        raise CatalogError(f"{self._filepath} is read-only: other catalog entries save these files")

    def preview(self) -> JSONPreview:
        """Return the paths of the files, which Kedro-Viz displays."""
        return JSONPreview(json.dumps([str(path) for path in self._versions()]))

    def _versions(self) -> Iterator[Path]:
        folders = map(Path, sorted(glob(self._filepath, recursive=True)))
        for folder in filter(Path.is_dir, folders):  # "**" also matches the files inside
            yield from sorted(folder.glob(f"*/{folder.name}"))

    def _exists(self) -> bool:
        return any(True for _ in self._versions())

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not a dictionary")
    except (OSError, ValueError) as error:
        raise CatalogError(
            f"{path} can't be read as a JSON dictionary: {error}; delete its folder"
        ) from error
    return content
