"""Tests of the project as an object; `tests/pipelines` tests the pipelines that it runs."""

from pathlib import Path

import pytest
from kedro.framework import project as kedro_project

from selfie_pipeline.project import Project, _merge, project_path, resolve_path


def test_the_home_folder_is_expanded_in_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")

    assert resolve_path("~/photographs") == Path("/home/somebody/photographs")


def test_a_home_folder_that_is_unknown_is_part_of_the_name() -> None:
    assert resolve_path("~no-such-user/photographs").parts[-2:] == ("~no-such-user", "photographs")


def test_paths_are_relative_to_the_sessions_project(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    project_path.set(Path("/home/somebody/project"))

    assert resolve_path("data/images") == Path("/home/somebody/project/data/images")


def test_a_process_of_a_project_without_pyproject_toml_is_prepared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The installed package runs with a folder conf/ alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kedro_project, "PACKAGE_NAME", None)

    Project(tmp_path, None, {}).bootstrap()

    assert kedro_project.PACKAGE_NAME == "selfie_pipeline"


def test_overrides_win_and_other_parameters_stay():
    base = {"seed": 3, "finetune": {"steps": 5, "batch_size": 8}, "arms": ["selfie"]}
    overrides = {"seed": 4, "finetune": {"steps": 6}, "pretrain": {"images": 100}}

    assert _merge(base, overrides) == {
        "seed": 4,
        "finetune": {"steps": 6, "batch_size": 8},
        "arms": ["selfie"],
        "pretrain": {"images": 100},
    }
    assert base["finetune"] == {"steps": 5, "batch_size": 8}
