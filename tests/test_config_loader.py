from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from kedro.config import MissingConfigException
from kedro.framework.project import configure_project, settings

from selfie_pipeline.config import UserError
from selfie_pipeline.config_loader import ProjectConfigLoader


def make_loader(conf: Path, env: str | None, text: bytes = b"seed: 3") -> ProjectConfigLoader:
    for folder in ("base", "other"):
        (conf / folder).mkdir(parents=True, exist_ok=True)
    (conf / "other/parameters.yml").write_bytes(text)
    return ProjectConfigLoader(str(conf), env=env, base_env="base", default_run_env="other")


def test_kedro_uses_this_loader() -> None:
    configure_project("selfie_pipeline")

    assert settings.CONFIG_LOADER_CLASS is ProjectConfigLoader


@pytest.mark.parametrize("env", [None, "", "other"])
def test_an_environment_is_read(tmp_path: Path, env: str | None) -> None:
    assert make_loader(tmp_path, env)["parameters"] == {"seed": 3}


@pytest.mark.parametrize("env", ["..", "../..", ".", "other/", "*", "another"])
def test_other_folders_are_no_environments(tmp_path: Path, env: str) -> None:
    with pytest.raises(UserError) as caught:
        make_loader(tmp_path / "conf", env)["parameters"]

    assert str(caught.value) == (
        f"--env = {env} is not an environment in {tmp_path / 'conf'}; allowed: base, other"
    )


@pytest.mark.parametrize("name", ["project [v2]", "what?", "a*b"])
def test_a_path_that_looks_like_a_pattern_is_refused(tmp_path: Path, name: str) -> None:
    """Kedro would find no configuration there, and no version."""
    with pytest.raises(UserError, match=r"takes it for a pattern; rename that folder$"):
        make_loader(tmp_path / name / "conf", "other")["parameters"]


def test_of_many_folders_ten_are_named(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"a{number:02}").mkdir()

    with pytest.raises(UserError, match=r"allowed: a00, (a\d\d, ){8}a09 and 22 more$"):
        make_loader(tmp_path, "another")["parameters"]


@pytest.mark.parametrize(
    "text", [b"seed: [3", b"seed: ${nope}", b"\xff\xfe", b"- 3", b"3", b"seed: ${oc.env:HOME}"]
)
def test_a_file_that_can_not_be_read_is_one_line(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(UserError) as caught:
        make_loader(tmp_path, "other", text)["parameters"]

    assert str(caught.value).startswith("the parameters can't be read: ")
    assert str(caught.value).endswith(f"correct --params, or the files in {tmp_path}")
    assert "\n" not in str(caught.value)


def test_kedro_is_told_what_is_not_there(tmp_path: Path) -> None:
    loader = make_loader(tmp_path, "other")

    with pytest.raises(MissingConfigException):
        loader["credentials"]
    with pytest.raises(KeyError):
        loader["nope"]


def test_a_folder_without_environments_is_refused(tmp_path: Path) -> None:
    loader = ProjectConfigLoader(str(tmp_path), base_env="base", default_run_env="other")

    with pytest.raises(UserError, match="the parameters can't be read: "):
        loader["parameters"]


def test_an_archive_is_read(tmp_path: Path) -> None:
    make_loader(tmp_path / "conf", "other")
    archive = shutil.make_archive(str(tmp_path / "conf"), "gztar", tmp_path, "conf")

    loader = ProjectConfigLoader(archive, env="other", base_env="base", default_run_env="local")

    assert loader["parameters"] == {"seed": 3}
