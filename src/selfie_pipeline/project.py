"""The project as a node sees it that runs other pipelines: the cells of a grid, many trainings."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.runner import SequentialRunner


@dataclass(frozen=True)
class Project:
    """Where the project lies, and the options of the run that is under way.

    Attributes:
        path: Folder of the project.
        env: The environment, a recipe; None for the default.
        params: What the person at the terminal set with `--params`, nested.
    """

    path: Path
    env: str | None
    params: Mapping[str, Any]

    def run(
        self, *pipelines: str, load_versions: Mapping[str, str] | None = None, **params: Any
    ) -> None:
        """Run pipelines as `kedro run` does, under the same options and a version of its own.

        Of Kedro's own messages, and of what is said around a run, only warnings are shown: there
        may be hundreds of such runs.

        Args:
            pipelines: Their names.
            load_versions: Of data sets that are not to be loaded in their newest version.
            params: More parameters, nested; they win over the run's own.

        Raises:
            UserError: As the pipelines raise it.
        """
        with _quiet(), self._session(params) as session:
            session.run(
                pipeline_names=list(pipelines),
                load_versions=dict(load_versions or {}),
                runner=SequentialRunner(),
            )

    def load(self, name: str, **params: Any) -> Any:
        """The newest version of a data set, as a run with these parameters finds it.

        Returns:
            What the data set holds; None where it is not there.
        """
        with self._session(params) as session:
            catalog = session.load_context().catalog
            return catalog.load(name) if catalog.exists(name) else None

    def enter(self) -> None:
        """Set this process up for runs of the project, as `kedro run` does."""
        os.chdir(self.path)
        bootstrap_project(self.path)

    @contextmanager
    def _session(self, params: Mapping[str, Any]) -> Iterator[KedroSession]:
        merged = _merged(self.params, params)
        session = KedroSession.create(self.path, env=self.env, runtime_params=merged)
        with session:  # Kedro's own type says less of what it enters than what it is
            yield session


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("kedro", "selfie_pipeline.hooks")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees of parameters in one; where both have a value, the one above counts."""
    merged = dict(below)
    for key, value in above.items():
        beneath = merged.get(key)
        nested = isinstance(value, Mapping) and isinstance(beneath, Mapping)
        merged[key] = _merged(beneath or {}, value) if nested else value
    return merged
