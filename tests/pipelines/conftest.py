"""The whole project with a tiny recipe, in a folder of its own."""

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

from selfie_pipeline.cli import run, split_params

REPOSITORY = Path(__file__).parents[2]
_RECIPE = "batch_size: 8, warmup_steps: 1, log_every: 2, checkpoint_every: 2"
TINY = {
    "globals.yml": "recipe: tiny\n",
    "parameters.yml": (
        "model: {width: 8, attention: {blocks: 1, heads: 2, intermediate: 16}}\n"
        f"pretrain: {{steps: 6, {_RECIPE}}}\n"
        f"finetune: {{steps: 4, {_RECIPE}}}\n"
        "experiment: {labeled_fracs: [0.05, 0.1], seeds: [0, 1]}\n"
        "tune: {trials: 3}\n"
        "ratio: {images: [100]}\n"
        "tracking: {mlflow: never}\n"
    ),
}


@dataclass(frozen=True)
class Project:
    """A copy of the project with the environment `tiny`."""

    path: Path

    def run(
        self, *stages: str, params: str = "", load_versions: dict[str, str] | None = None
    ) -> None:
        """Run some stages through Kedro's session, or all."""
        with self._session(params) as session:
            session.run(pipeline_names=list(stages), load_versions=load_versions)

    def kedro_run(self, *options: str) -> Result:
        """Run as the command line does, in this process."""
        env = () if any(option.startswith("--env") for option in options) else ("--env=tiny",)
        return CliRunner().invoke(run, [*env, *options])

    def catalog(self, params: str = "") -> DataCatalog:
        with self._session(params) as session:
            catalog = session.load_context().catalog
            assert isinstance(catalog, DataCatalog)
            return catalog

    def load(self, name: str, params: str = "") -> Any:
        return self.catalog(params).load(name)

    def versions(self, name: str) -> list[str]:
        """Newest first."""
        versions: list[str] = self.catalog()[name].list_versions(full_path=False)
        return versions

    def files(self) -> dict[str, bytes]:
        """The content of everything in data/."""
        data = self.path / "data"
        return {
            str(path.relative_to(data)): path.read_bytes()
            for path in sorted(data.rglob("*"))
            if path.is_file()
        }

    def _session(self, params: str) -> KedroSession:
        given = split_params(click.Context(run), click.Option(["--params"]), params)
        return KedroSession.create(project_path=self.path, env="tiny", runtime_params=given)


def _make(folder: Path) -> Project:
    shutil.copytree(REPOSITORY / "conf", folder / "conf")
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(REPOSITORY / name, folder)
    for name in ("src", "data", "conf/tiny"):  # Kedro wants a src; the package is the installed one
        (folder / name).mkdir()
    for name, content in TINY.items():
        (folder / "conf/tiny" / name).write_text(content)
    return Project(folder)


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """More would wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class WholeRun:
    """What `kedro run --env=tiny` left, and what it said."""

    project: Project
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    """Look, don't touch: every test sees the same one."""
    project = _make(tmp_path_factory.mktemp("whole"))
    environment = {key: value for key, value in os.environ.items() if key != "KEDRO_ENV"}
    done = subprocess.run(
        [sys.executable, "-m", "kedro", "run", "--env=tiny"],
        cwd=project.path,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    bootstrap_project(project.path)
    return WholeRun(project, done)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project without data, as the working directory."""
    (tmp_path / "project").mkdir()
    return _enter(_make(tmp_path / "project"), monkeypatch)


@pytest.fixture
def finished(whole_run: WholeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project of one's own in which everything has run once, as the working directory."""
    shutil.copytree(whole_run.project.path, tmp_path / "project")
    return _enter(Project(tmp_path / "project"), monkeypatch)


def _enter(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(project.path)
    monkeypatch.delenv("KEDRO_ENV", raising=False)
    bootstrap_project(project.path)
    return project
