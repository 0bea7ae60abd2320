"""A folder that a node keeps files of its own in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError


class FolderPathDataset(AbstractDataset[NoReturn, Path]):
    """The path of a folder, which need not exist yet; what lies in it is the node's business."""

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Point to the folder.

        Args:
            filepath: The folder, on a local disk.
            metadata: For plugins, such as Kedro-Viz's layer.
        """
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> Path:
        """The folder's path."""
        return self._filepath

    def save(self, data: NoReturn) -> None:  # noqa: ARG002
        """Refuse.

        Raises:
            DatasetError: Always.
        """
        raise DatasetError(f"{self._filepath} is a folder that nodes write into, not an output")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
