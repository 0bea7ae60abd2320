"""The Kedro project as an object, for nodes that run other pipelines."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kedro.framework import project as kedro_project
from kedro.framework.session import KedroSession
from kedro.io import AbstractVersionedDataset
from kedro.pipeline import Pipeline
from kedro.runner import SequentialRunner
from kedro.utils import find_kedro_project

from selfie_pipeline.config import UserError
from selfie_pipeline.versions import RunVersions, outer_versions

project_path: ContextVar[Path | None] = ContextVar("project_path", default=None)
"""Folder of the project of the latest Kedro session."""


def resolve_path(path: str) -> Path:
    """Return a path that is absolute, or relative to the project.

    A shell expands `~` at the beginning of an argument only, and not in `--params key=~/folder`.
    """
    project = project_path.get() or find_kedro_project(Path.cwd()) or Path.cwd()
    return project / os.path.expanduser(path)  # that of Path fails for an unknown user


class CellsFailedError(UserError):
    """Cells of an experiment failed that a node started; the others have results.

    Attributes:
        failures: For each failed cell its key and the cause, in one line.
    """

    def __init__(self, failures: Sequence[str]) -> None:
        self.failures = list(failures)
        super().__init__(
            f"{len(failures)} cells failed ({'; '.join(failures)}); fix the causes and run again: "
            "the other cells are kept, unless a parameter of theirs changes"
        )


@dataclass(frozen=True)
class Project:
    """The project's folder and the options of the current run.

    Attributes:
        path: Folder of the project.
        env: Kedro environment, which is the recipe; None for the default.
        params: Nested parameters that the user set with `--params`.
        conf_source: Folder of the configuration; None for that of the project.
        versions: Versions of the current run, which the runs that it starts load as well.
    """

    path: Path
    env: str | None
    params: Mapping[str, Any]
    conf_source: str | None = None
    versions: RunVersions = field(default_factory=RunVersions)

    def run(
        self, *pipelines: str, load_versions: Mapping[str, str] | None = None, **params: Any
    ) -> dict[str, Any]:
        """Run pipelines as `kedro run` does, with the options of this run and a separate version.

        Kedro's messages and the summary of the run are suppressed up to warnings, because there may
        be hundreds of such runs.

        Args:
            pipelines: Names of the pipelines.
            load_versions: Versions of catalog entries to load; by default those of this run, and
                the latest of entries that this run doesn't have.
            params: More parameters, nested; they override those of this run.

        Returns:
            The catalog entries of the pipelines' outputs by name, which load what was saved.

        Raises:
            UserError: A pipeline raised it; `CellsFailedError` if only cells failed.
        """
        token = outer_versions.set(self.versions)
        params = {"budget": None, **params}  # it is that of the entire run
        try:
            # Kedro annotates __enter__ with a more general type.
            with _suppress_info(), (session := self._create_session(params)):
                return session.run(
                    pipeline_names=list(pipelines),
                    load_versions=dict(load_versions or {}),
                    runner=SequentialRunner(),
                )
        finally:
            outer_versions.reset(token)

    def with_params(self, params: Mapping[str, Any]) -> Project:
        """Return the project with more parameters, nested, which override those of this one."""
        return replace(self, params=_merge(self.params, params))

    def load(self, name: str, **params: Any) -> Any:
        """Load the latest version of a catalog entry of the runs with these parameters.

        Runs that this run starts later load the same version.

        Returns:
            The data, or None if there are none and the entry requires some.
        """
        with (session := self._create_session(params)):
            catalog = session.load_context().catalog
            if not catalog.exists(name):
                return None
            entry = catalog[name]
            if isinstance(entry, AbstractVersionedDataset):
                for version in entry.list_versions(full_path=False)[:1]:  # latest first
                    self.versions.chosen[str(entry._filepath)] = version
            return entry.load()

    def bootstrap(self) -> None:
        """Prepare this process for runs of the project, as `kedro run` does, if it isn't yet."""
        if kedro_project.PACKAGE_NAME is None:
            os.chdir(self.path)
            kedro_project.configure_project(__package__)

    def _create_session(self, params: Mapping[str, Any]) -> KedroSession:
        merged = _merge(self.params, params)
        return KedroSession.create(
            self.path, env=self.env, conf_source=self.conf_source, runtime_params=merged
        )


def starts_runs(pipeline: Pipeline) -> bool:
    """Return whether nodes of the pipeline run other pipelines: experiment, tune and ratio."""
    return "project" in pipeline.inputs()


@contextmanager
def _suppress_info() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("kedro", "selfie_pipeline.hooks")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two trees of parameters; overrides win."""
    merged = dict(base)
    for key, value in overrides.items():
        old = merged.get(key)
        nested = isinstance(value, Mapping) and isinstance(old, Mapping)
        merged[key] = _merge(old or {}, value) if nested else value
    return merged
