"""Versions that are whole or absent.

Whatever is saved is written beside its place, forced to the disk, and then renamed into it. A
process that dies at any byte, or a disk that fills up, leaves the version before as the newest one
that Kedro sees: its search, `<filepath>/*/<name>`, does not match `.partial-<name>`.

Renaming is atomic on a local file system only, so these types refuse any other.
"""

from __future__ import annotations

import json
import os
import shutil
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

import numpy as np
from kedro.io.core import AbstractVersionedDataset, DatasetError, Version
from kedro_datasets._typing import JSONPreview, TablePreview
from kedro_datasets.json.json_dataset import JSONDataset
from kedro_datasets.matplotlib.matplotlib_dataset import MatplotlibDataset
from kedro_datasets.pandas.csv_dataset import CSVDataset
from kedro_datasets.pandas.parquet_dataset import ParquetDataset
from kedro_datasets.text.text_dataset import TextDataset

from selfie_pipeline.config import UserError

_UNSEEN = {"head", "style", "script", "svg"}
"""Elements of a page whose text is not shown where it stands."""

_Saved = TypeVar("_Saved")
_Loaded = TypeVar("_Loaded")


class CatalogError(UserError, DatasetError):
    """A file of the catalog can't be written or read; Kedro passes it on as it is."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a place to write to; it becomes `path` when the block ends well, else it is removed.

    Args:
        path: Where a file or a folder is to be. A file that is there is replaced.

    Yields:
        A path in the same folder, absent; the block makes a file or a folder of it.

    Raises:
        CatalogError: The system refused to write or rename (disk full, permissions), or the block
            raised a UserError. `path` is as it was.
        FileNotFoundError, NotADirectoryError, FileExistsError: The folder of `path` can't be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    _remove(partial)  # what a killed process left
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
        _flush_entry(path.parent)
    except OSError as error:
        raise CatalogError(
            f"{path} was not saved: {error}; earlier versions are untouched: mend that (free "
            "space, permissions) and run again"
        ) from error
    except UserError as error:
        raise CatalogError(str(error)) from error
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Force a file, or a folder with its files, to the disk."""
    if path.is_dir():
        for file in path.iterdir():
            _flush_entry(file)
    _flush_entry(path)


def _flush_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AtomicDataset(AbstractVersionedDataset[_Saved, _Loaded], Generic[_Saved, _Loaded]):
    """Base of our own types: a subclass says how one file or folder is written and read."""

    def __init__(
        self,
        *,
        filepath: str,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Point to a place; nothing is read.

        Args:
            filepath: The place, on a local disk; versions lie in `<filepath>/<version>/<name>`.
            version: Which version to load and save, from Kedro; None for a single one that is
                replaced.
            metadata: For plugins, such as Kedro-Viz's layer.
        """
        super().__init__(PurePosixPath(filepath), version)
        self.metadata = metadata

    def load(self) -> _Loaded:
        """Read the version asked for, or the newest.

        Raises:
            CatalogError: There is no such version, or it is damaged.
            VersionNotFoundError: There is none at all.
        """
        path = Path(self._get_load_path())
        if not path.exists():
            versions = self.list_versions(full_path=False) if self._version else []
            raise CatalogError(
                f"{path} does not exist; versions of it: {', '.join(versions) or 'none'}"
            )
        return self._read(path)

    def save(self, data: _Saved) -> None:
        """Write a new version.

        Raises:
            CatalogError: It can't be written; there is no new version then.
            DatasetError: The version exists already.
        """
        with atomic_write(Path(self._get_save_path())) as partial:
            self._write(data, partial)

    @abstractmethod
    def _read(self, path: Path) -> _Loaded: ...

    @abstractmethod
    def _write(self, data: _Saved, path: Path) -> None: ...

    def preview(self) -> JSONPreview:
        """What Kedro-Viz shows of the version that `load` would read."""
        return JSONPreview(json.dumps(self._preview(Path(self._get_load_path()))))

    def _preview(self, path: Path) -> Any:
        """A few facts about what lies there, as plain data, without reading all of it."""
        return {"files": sorted(file.name for file in path.iterdir()) if path.is_dir() else []}

    def _exists(self) -> bool:
        return Path(self._get_load_path()).exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "version": self._version}


class _AtomicSave:
    """Mixin before one of kedro-datasets' versioned types; its `save` writes whole or not at all.

    No Kedro class itself: Kedro would replace the `__init__` of the type that it is mixed into.
    """

    def save(self: Any, data: Any) -> None:
        """Write a new version, as the type mixed into does."""
        if self._protocol != "file":
            raise CatalogError(
                f"{self._protocol}://{self._filepath} is not on a local disk; allowed for "
                f"{type(self).__name__}: a local path"
            )
        # Unwrapped: Kedro's wrapper compares versions, which only mean something after the rename
        write = super().save.__wrapped__  # type: ignore[misc]
        with atomic_write(Path(self._get_save_path())) as partial:
            write(self._copy(_filepath=PurePosixPath(partial), _version=None), data)


class AtomicCSVDataset(_AtomicSave, CSVDataset):
    """A table as CSV, in UTF-8."""

    # pandas reads UTF-8 whatever the locale; so it must be written
    DEFAULT_FS_ARGS = {"open_args_save": {"mode": "w", "encoding": "utf-8", "newline": ""}}  # noqa: RUF012


class AtomicParquetDataset(_AtomicSave, ParquetDataset):
    """A table as Parquet."""

    def preview(self, nrows: int = 5) -> TablePreview:
        """The first rows; of a vector its first numbers, for a page and for `kedro viz build`."""
        preview = super().preview(nrows)
        preview["data"] = [[_shown(value) for value in row] for row in preview["data"]]
        return preview


def _shown(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    first = ", ".join(f"{number:.3g}" for number in value[:3])
    return f"{first} … ({len(value)} numbers)"


class AtomicJSONDataset(_AtomicSave, JSONDataset):
    """Numbers, strings, lists and dictionaries as JSON."""


class OptionalJSONDataset(AtomicJSONDataset):
    """As `AtomicJSONDataset`; where nothing has been saved yet, there is an empty list."""

    def load(self) -> Any:
        """Read the version asked for, or the newest; an empty list where there is none at all."""
        return super().load() if super()._exists() else []

    def _exists(self) -> bool:
        return True


class AtomicTextDataset(_AtomicSave, TextDataset):
    """A text, in UTF-8."""

    DEFAULT_FS_ARGS = {  # noqa: RUF012
        "open_args_save": {"mode": "w", "encoding": "utf-8"},
        "open_args_load": {"mode": "r", "encoding": "utf-8"},
    }

    def preview(self, nrows: int = 20) -> TablePreview:
        """The first lines as a table, the one kind that Kedro-Viz shows text as.

        Args:
            nrows: How many lines. Of a page these are lines that a reader sees.
        """
        text: str = self.load()
        if self._filepath.suffix == ".html":
            page = _PageText()
            page.feed(text)
            text = "\n".join(page.lines)
        lines = [[line] for line in text.splitlines() if line.strip()][:nrows]
        return TablePreview({"index": list(range(len(lines))), "columns": ["text"], "data": lines})


class _PageText(HTMLParser):
    """The texts of a page, one for each element that has any."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self._unseen += tag in _UNSEEN

    def handle_endtag(self, tag: str) -> None:
        self._unseen -= tag in _UNSEEN

    def handle_data(self, data: str) -> None:
        if not self._unseen and data.strip():
            self.lines.append(" ".join(data.split()))


class AtomicFigureDataset(_AtomicSave, MatplotlibDataset):
    """One matplotlib figure as an image; saving it closes all figures of pyplot."""
