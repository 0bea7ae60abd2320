"""Dataset types whose versions are either complete or absent.

A save that fails or is killed leaves the previous version as the latest one that Kedro finds: its
search pattern, `<filepath>/*/<name>`, does not match `.partial-<name>`. These types accept local
paths only, because renaming is not atomic elsewhere.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

from kedro.io.core import AbstractVersionedDataset, DatasetError, Version
from kedro_datasets._typing import JSONPreview

from selfie_pipeline.atomic_write import atomic_write
from selfie_pipeline.config import UserError
from selfie_pipeline.printable import list_first

_Saved = TypeVar("_Saved")
_Loaded = TypeVar("_Loaded")


class CatalogError(UserError, DatasetError):
    """A failure to read or write a file of the catalog; Kedro re-raises it unchanged."""


class MissingVersionError(CatalogError):
    """A version that was asked for does not exist."""


def missing_version_error(path: Path, versions: Collection[str]) -> MissingVersionError:
    """Return the error for a missing path of a version; `versions` exist, the latest first."""
    return MissingVersionError(
        f"{path} does not exist; available versions: {list_first(versions, 10) or 'none'}"
    )


@contextmanager
def atomic_save(path: Path) -> Iterator[Path]:
    """Do the same as `atomic_write`, for the save method of a dataset.

    Raises:
        CatalogError: The system refused to write or rename (disk full, permissions), or the block
            raised a UserError. `path` is as it was.
        FileNotFoundError, NotADirectoryError, FileExistsError: The parent folder can't be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)  # outside: Kedro explains these errors itself
    try:
        with atomic_write(path) as partial:
            yield partial
    except OSError as error:
        raise CatalogError(
            f"{path} was not saved: {error}; earlier versions are untouched: fix the cause (free "
            "space, permissions) and run again"
        ) from error
    except UserError as error:
        raise CatalogError(str(error)) from error


class _OwnVersionMixin:
    """Mixin that loads what the same run has saved, whatever other runs have saved since.

    List it before the Kedro type. It must not inherit from one, because Kedro would then replace
    that type's `__init__`.
    """

    def resolve_load_version(self: Any) -> str | None:
        """Return the version that this run saves if it exists, else the requested or the latest."""
        own = self._version and self._version.save
        if own and self._exists_function(str(self._get_versioned_path(own))):
            return str(own)
        version: str | None = super().resolve_load_version()  # type: ignore[misc]
        return version


class AtomicDataset(
    _OwnVersionMixin, AbstractVersionedDataset[_Saved, _Loaded], Generic[_Saved, _Loaded]
):
    """Base class of this project's own types; subclasses read and write one file or folder."""

    def __init__(
        self,
        *,
        filepath: str,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Create a dataset without accessing the disk.

        Args:
            filepath: Local path; versions are stored as `<filepath>/<version>/<name>`.
            version: Version to load and save, set by Kedro; None for an unversioned file, which
                is replaced.
            metadata: Metadata for plugins, such as Kedro-Viz's layer.
        """
        super().__init__(PurePosixPath(filepath), version)
        self.metadata = metadata

    def load(self) -> _Loaded:
        """Load the requested version, by default the latest.

        Raises:
            MissingVersionError: The requested version does not exist.
            CatalogError: It is damaged.
            VersionNotFoundError: There is no version at all.
        """
        path = Path(self._get_load_path())
        if not path.exists():
            versions = self.list_versions(full_path=False) if self._version else []
            raise missing_version_error(path, versions)
        return self._read(path)

    def save(self, data: _Saved) -> None:
        """Write a new version.

        Raises:
            CatalogError: It can't be written; there is no new version then.
            DatasetError: The version already exists.
        """
        with atomic_save(Path(self._get_save_path())) as partial:
            self._write(data, partial)

    @abstractmethod
    def _read(self, path: Path) -> _Loaded: ...

    @abstractmethod
    def _write(self, data: _Saved, path: Path) -> None: ...

    def preview(self) -> JSONPreview:
        """Return what Kedro-Viz displays for the version that `load` would read."""
        return JSONPreview(json.dumps(self._preview(Path(self._get_load_path()))))

    def _preview(self, path: Path) -> Any:
        """Return a few facts about the stored file or folder, without reading all of it."""
        return {"files": sorted(file.name for file in path.iterdir()) if path.is_dir() else []}

    def _exists(self) -> bool:
        return Path(self._get_load_path()).exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "version": self._version}


class AtomicSaveMixin(_OwnVersionMixin):
    """Mixin that makes `save` of a kedro-datasets type atomic; precedes that type in the bases."""

    def save(self: Any, data: Any) -> None:
        """Write a new version in the format of the mixed-in type.

        Raises:
            CatalogError: The path is not local, or can't be written; there is no new version then.
        """
        if self._protocol != "file":
            raise CatalogError(
                f"{self._protocol}://{self._filepath} is not on a local disk; allowed for "
                f"{type(self).__name__}: a local path"
            )
        # Without Kedro's wrapper, whose check of the version is meaningless before the rename.
        write = super().save.__wrapped__  # type: ignore[misc]
        with atomic_save(Path(self._get_save_path())) as partial:
            there = {"_filepath": PurePosixPath(partial), "_version": None}
            write(self._copy(**there, **self._save_settings(data)), data)

    def _save_settings(self, data: Any) -> dict[str, Any]:  # noqa: ARG002
        """Return the type's attributes that saving these data changes."""
        return {}
