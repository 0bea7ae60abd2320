"""The results of many runs, gathered for a report."""

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
    """All versions of each versioned JSON file that a pattern finds; read-only.

    Made for the cells of an experiment, each of which saves to a path of its own:
    `data/08_reporting/digits/**/metrics.json` finds the folders `metrics.json/`, at any depth, in
    which Kedro keeps `<version>/metrics.json`.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Point to the files; nothing is read.

        Args:
            filepath: Where they lie, `*` standing for any name of one folder, `**` for any number
                of folders.
            metadata: For plugins, such as Kedro-Viz's layer.
        """
        self._filepath = filepath
        self.metadata = metadata

    def load(self) -> list[dict[str, Any]]:
        """Read them.

        Returns:
            The files' dictionaries, sorted by path, each with its version (str) added as
            "version"; empty where the pattern finds none.

        Raises:
            CatalogError: A file is damaged; the message names it.
        """
        return [_read(path) | {"version": path.parent.name} for path in self._versions()]

    def save(self, data: NoReturn) -> None:  # noqa: ARG002
        """Refuse: each file is another data set's.

        Raises:
            CatalogError: Always.
        """
        raise CatalogError(f"{self._filepath} is read-only: it gathers what other data sets save")

    def preview(self) -> JSONPreview:
        """The files found, as Kedro-Viz shows them."""
        return JSONPreview(json.dumps([str(path) for path in self._versions()]))

    def _versions(self) -> Iterator[Path]:
        folders = map(Path, sorted(glob(self._filepath, recursive=True)))
        for folder in filter(Path.is_dir, folders):  # "**" finds the files within, too
            yield from sorted(folder.glob(f"*/{folder.name}"))

    def _exists(self) -> bool:
        return any(True for _ in self._versions())

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CatalogError(f"{path} can't be read as JSON: {error}; delete its folder") from error
    if not isinstance(content, dict):
        raise CatalogError(
            f"{path} holds a {type(content).__name__}; allowed: a dictionary; delete its folder"
        )
    return content
