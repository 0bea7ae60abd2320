"""The versions that a run loads and saves, fixed before its first node.

Kedro loads the latest version at the moment of loading, which may be that of another run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from kedro.io import AbstractVersionedDataset, DataCatalog, Version
from kedro.io.core import VERSION_FORMAT

from selfie_pipeline.config import UserError

Entry = AbstractVersionedDataset[Any, Any]
_ARMS = ("supervised", "selfie", "weights")
_SAVED_BEFORE = {f"{arm}_history": f"{arm}_metrics" for arm in _ARMS}
"""A history is saved by an earlier node than its metrics. It is loaded in the metrics' version, or
in the latest before it if `--from-nodes` skipped that node."""
_SAVED_AFTER = {"data_check": "patch_grids"}
"""`data_check` is saved after `patch_grids`. It is loaded in the latest version that is not older
than the patch grids, but older than the next ones."""
SAVED_WITH = (
    {"pretrain_history": "encoder"}
    | {f"{arm}_predictions": f"{arm}_metrics" for arm in _ARMS}
    | _SAVED_BEFORE
    | _SAVED_AFTER
)
"""Entries whose version to load follows from that of another one; most are of the same node."""


@dataclass(frozen=True)
class RunVersions:
    """The versions of a run and of the runs that it is part of.

    Attributes:
        saved: The version that each of these runs saves; that of the innermost run comes first.
        chosen: The version to load from each path of the catalog, unless one of these runs has
            saved a version there.
    """

    saved: tuple[str, ...] = ()
    chosen: dict[str, str] = field(default_factory=dict)


outer_versions: ContextVar[RunVersions] = ContextVar("outer_versions", default=RunVersions())  # noqa: B039
"""The versions of the run whose node starts the present run; none for `kedro run`."""


def is_outermost() -> bool:
    """Return whether the present run is that of `kedro run`, not one that its nodes start."""
    return not outer_versions.get().saved


def versioned_entries(names: Iterable[str], catalog: DataCatalog) -> dict[str, Entry]:
    """Return those of the entries that have versions, by name."""
    entries = {name: catalog[name] for name in sorted(names) if name in catalog}
    return {
        name: entry
        for name, entry in entries.items()
        if isinstance(entry, AbstractVersionedDataset) and entry._version
    }


def pin_versions(
    catalog: DataCatalog, names: Iterable[str], outputs: Collection[str], run_id: str
) -> RunVersions:
    """Choose the versions that a run loads and saves, and fix them in its catalog.

    An entry is loaded in the version that `--load-versions` names, or that an outer run has saved
    or chosen, or in the latest; those of `SAVED_WITH` in that which belongs to the other one. What
    the run saves itself is loaded in that version (see `datasets.atomic`).

    Args:
        catalog: The run's catalog.
        names: Names of the entries that the run uses. Others are not created, because that imports
            their types: matplotlib for figures.
        outputs: Names of the entries that the run saves.
        run_id: The run's time stamp, which is the version to save unless a later one exists.

    Raises:
        UserError: The folder of a version can't be created.
    """
    outer = outer_versions.get()
    used = set(names)
    used |= {SAVED_WITH[name] for name in used & SAVED_WITH.keys()}
    entries = versioned_entries(used, catalog)
    loads = {name: _choose_version(entry, outer) for name, entry in entries.items()}
    for name in SAVED_WITH.keys() & entries.keys():
        version = entries[name]._version
        if loads[name] and not (version and version.load):  # or it was never saved
            loads[name] = _choose_belonging(name, entries, loads) or loads[name]
    save = claim_version(run_id, versioned_entries(outputs, catalog).values())
    for name, entry in entries.items():
        entry._version = Version(loads[name], save)  # Kedro has no public way to set it
    chosen = {str(entries[name]._filepath): load for name, load in loads.items() if load}
    return RunVersions((save, *outer.saved), chosen)


def _choose_version(entry: Entry, outer: RunVersions) -> str | None:
    """Return the version to load, or None if there is none yet."""
    if entry._version and entry._version.load:
        return str(entry._version.load)
    existing = entry.list_versions(full_path=False)  # latest first
    saved = (version for version in outer.saved if version in existing)
    chosen = outer.chosen.get(str(entry._filepath))
    return next(saved, None) or chosen or next(iter(existing), None)


def _choose_belonging(
    name: str, entries: Mapping[str, Entry], loads: Mapping[str, str | None]
) -> str | None:
    """Return the version of an entry of `SAVED_WITH` that belongs to that of the other one."""
    other = SAVED_WITH[name]
    if (version := loads.get(other)) is None:
        return None
    saved = entries[name].list_versions(full_path=False)
    if name in _SAVED_BEFORE:
        return max((each for each in saved if each <= version), default=version)
    if name in _SAVED_AFTER:
        later = [each for each in entries[other].list_versions(full_path=False) if each > version]
        belonging = (
            each
            for each in saved
            if version <= each and all(each < following for following in later)
        )
        return max(belonging, default=version)
    return version


def claim_version(wanted: str, outputs: Collection[Entry]) -> str:
    """Claim a version that is later than all others of these entries, by creating its folders.

    Two runs may start in the same millisecond, and the clock may have been set back.

    Args:
        wanted: A version, which is a time stamp.
        outputs: Entries to be saved.

    Returns:
        The version, or the first later one that is free.

    Raises:
        UserError: A folder can't be created.
    """
    latest = [version for entry in outputs for version in entry.list_versions(full_path=False)[:1]]
    version = max([wanted, *map(_next_version, filter(_is_time_stamp, latest))])
    while True:
        try:
            _create_folders([Path(entry._filepath, version) for entry in outputs])
            return version
        except OSError as error:
            exists = isinstance(error, FileExistsError)
            if exists and Path(error.filename).name == version:
                version = _next_version(version)
                continue
            reason = "a link without a target" if exists else error.strerror
            raise UserError(
                f"{error.filename} can't be created: {reason}; fix the cause (free space, "
                "permissions) and run again"
            ) from error


def _create_folders(folders: Iterable[Path]) -> None:
    """Create all folders, or none if one exists or can't be created."""
    created: list[Path] = []
    try:
        for folder in folders:
            folder.mkdir(parents=True)
            created.append(folder)
    except OSError:
        for folder in created:
            with suppress(OSError):  # another run has put something there
                folder.rmdir()
        raise


def release_claims(outputs: Collection[Entry]) -> None:
    """Remove the folders of this run's version into which nothing was saved."""
    for entry in outputs:
        with suppress(OSError):  # not empty, or removed by the user
            Path(entry._filepath, str(entry.resolve_save_version())).rmdir()


def _is_time_stamp(version: str) -> bool:
    try:
        datetime.strptime(version, VERSION_FORMAT)
    except ValueError:
        return False  # a folder that the user has named
    return True


def _next_version(version: str) -> str:
    """Return the time stamp one millisecond later."""
    later = datetime.strptime(version, VERSION_FORMAT) + timedelta(milliseconds=1)
    return f"{later.strftime(VERSION_FORMAT)[:-4]}Z"
