"""Fixtures of the documentation's tests: a copy of the project after a tiny `kedro run`."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from kedro.framework.startup import bootstrap_project

from selfie_pipeline.cli import run

REPOSITORY = Path(__file__).parents[2]
SHORT = (
    "model.layers=[1,1,1,1],model.width=8,"
    "model.attention.blocks=1,model.attention.heads=2,model.attention.intermediate=16,"
    "pretrain.steps=4,pretrain.warmup_steps=1,pretrain.batch_size=8,pretrain.log_every=2,"
    "finetune.steps=4,finetune.warmup_steps=1,finetune.batch_size=8,finetune.log_every=2"
)
"""Parameters with which any recipe takes seconds."""


@pytest.fixture(scope="session")
def short() -> str:
    """Return `SHORT`."""
    return SHORT


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a copy of the project after the demo, as the working directory; all tests share it."""
    folder = tmp_path_factory.mktemp("docs") / "project"
    for name in ("benchmarks", "conf", "docs", "notebooks", "src"):
        shutil.copytree(REPOSITORY / name, folder / name)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", ".telemetry"):
        shutil.copy(REPOSITORY / name, folder)
    (folder / "data").mkdir()
    before = Path.cwd()
    environment = os.environ.pop("KEDRO_ENV", None)
    os.chdir(folder)
    bootstrap_project(folder)
    with warnings.catch_warnings():  # the tests' marks do not apply to fixtures
        warnings.filterwarnings("ignore", "Accessing the 'model_fields'")  # caused by Kedro
        done = CliRunner().invoke(run, [f"--params={SHORT}"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    yield folder
    os.chdir(before)
    if environment is not None:
        os.environ["KEDRO_ENV"] = environment
