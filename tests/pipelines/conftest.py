"""Fixtures of the complete project with a tiny recipe, in a temporary folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.io import DataCatalog

from selfie_pipeline.cli import parse_params, run

REPOSITORY = Path(__file__).parents[2]
_RECIPE = "batch_size: 8, warmup_steps: 1, log_every: 2, checkpoint_every: 2"
TINY = {
    "globals.yml": "recipe: tiny\n",
    "parameters.yml": (
        "model: {layers: [1, 1, 1, 1], width: 8, "
        "attention: {blocks: 1, heads: 2, intermediate: 16}}\n"
        f"pretrain: {{steps: 6, {_RECIPE}}}\n"
        f"finetune: {{steps: 4, {_RECIPE}}}\n"
        "experiment: {labeled_fracs: [0.05, 0.1], seeds: [0, 1]}\n"
        "tune: {trials: 3}\n"
        "ratio: {images: [100]}\n"
        "tracking: {mlflow: never}\n"
        "compute: {cells_at_once: 1}\n"
    ),
}

PRIVATE = {"USER": "somebody-private", "LOGNAME": "somebody-private", "API_KEY": "a-private-key"}
"""Environment variables that no output may hold."""


@dataclass(frozen=True)
class Project:
    """A copy of the project with the environment `tiny`."""

    path: Path

    def run(
        self, *stages: str, params: str = "", load_versions: dict[str, str] | None = None
    ) -> None:
        """Run some or all pipelines in a Kedro session."""
        with self._session(params) as session:
            session.run(pipeline_names=list(stages), load_versions=load_versions)

    def kedro_run(self, *options: str) -> Result:
        """Run the command `kedro run` in this process; unexpected exceptions are raised."""
        env = () if any(option.startswith("--env") for option in options) else ("--env=tiny",)
        return CliRunner(catch_exceptions=False).invoke(run, [*env, *options])

    def succeed(self, *options: str) -> Result:
        """Run the command and assert that it succeeds."""
        result = self.kedro_run(*options)
        assert result.exit_code == 0, result.output
        return result

    def refuse(self, *options: str) -> str:
        """Run the command, assert that it fails, and return its error of one line."""
        result = self.kedro_run(*options)
        assert result.exit_code == 1, result.output
        (line,) = result.stderr.splitlines()
        assert line.startswith("Error: ")
        return line

    def catalog(self, params: str = "") -> DataCatalog:
        with self._session(params) as session:
            catalog = session.load_context().catalog
            assert isinstance(catalog, DataCatalog)
            return catalog

    def load(self, name: str, params: str = "") -> Any:
        return self.catalog(params).load(name)

    def versions(self, name: str) -> list[str]:
        """Return the versions of a catalog entry, latest first."""
        versions: list[str] = self.catalog()[name].list_versions(full_path=False)
        return versions

    def files(self) -> dict[str, bytes]:
        """Return the contents of all files in data/."""
        data = self.path / "data"
        return {
            str(path.relative_to(data)): path.read_bytes()
            for path in sorted(data.rglob("*"))
            if path.is_file()
        }

    def _session(self, params: str) -> KedroSession:
        parsed = parse_params(click.Context(run), click.Option(["--params"]), params)
        return KedroSession.create(project_path=self.path, env="tiny", runtime_params=parsed)


def _make(folder: Path) -> Project:
    shutil.copytree(REPOSITORY / "conf", folder / "conf")
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(REPOSITORY / name, folder)
    for name in ("src", "data", "conf/tiny"):
        (folder / name).mkdir()  # Kedro requires src; the package is the installed one
    for name, content in TINY.items():
        (folder / "conf/tiny" / name).write_text(content)
    return Project(folder)


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Use one thread: several would spend most of the time waiting for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class CompleteRun:
    """A project after `kedro run --env=tiny`, and the finished process."""

    project: Project
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def complete_run(tmp_path_factory: pytest.TempPathFactory) -> CompleteRun:
    """Return the run that all tests share; they must not change it."""
    project = _make(tmp_path_factory.mktemp("complete"))
    environment = {key: value for key, value in os.environ.items() if key != "KEDRO_ENV"}
    done = subprocess.run(
        [sys.executable, "-m", "kedro", "run", "--env=tiny"],
        cwd=project.path,
        env=environment | {"OMP_NUM_THREADS": "1"} | PRIVATE,
        capture_output=True,
        text=True,
        check=False,
    )
    bootstrap_project(project.path)
    return CompleteRun(project, done)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a project without data, as the working directory."""
    (tmp_path / "project").mkdir()
    return _enter(_make(tmp_path / "project"), monkeypatch)


@pytest.fixture
def finished(complete_run: CompleteRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a copy of the complete run's project, as the working directory."""
    shutil.copytree(complete_run.project.path, tmp_path / "project")
    return _enter(Project(tmp_path / "project"), monkeypatch)


def _enter(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(project.path)
    monkeypatch.delenv("KEDRO_ENV", raising=False)
    bootstrap_project(project.path)
    return project
