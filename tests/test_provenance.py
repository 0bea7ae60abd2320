from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from selfie_pipeline import provenance
from selfie_pipeline.config import Config
from selfie_pipeline.provenance import describe_environment, dump_configuration, hash_json


def test_the_configuration_is_that_of_its_parts(make_config: Callable[..., Config]) -> None:
    config = make_config({"pretrain.steps": 7})

    found = dump_configuration(patch=config.patch, pretrain=config.pretrain)

    assert found.keys() == {"patch", "pretrain"}
    assert found["patch"] == {
        "canvas_size": 32,
        "image_size": 32,
        "patch_size": 8,
        "targets": 4,
    }
    assert found["pretrain"]["steps"] == 7


def test_logging_and_checkpoint_intervals_are_not_part_of_it(
    make_config: Callable[..., Config],
) -> None:
    often = make_config({"pretrain.log_every": 1, "pretrain.checkpoint_every": 1}).pretrain
    seldom = make_config({"pretrain.log_every": 9, "pretrain.checkpoint_every": 9}).pretrain

    assert dump_configuration(pretrain=often) == dump_configuration(pretrain=seldom)


def test_every_other_parameter_is_part_of_it(make_config: Callable[..., Config]) -> None:
    changes = {"smallest_crop": 0.3, "colour_jitter": 0.5, "weights": "a digest"}
    recipe = make_config({f"pretrain.{key}": value for key, value in changes.items()}).pretrain

    found = dump_configuration(pretrain=recipe)["pretrain"]

    assert type(recipe).model_fields.keys() - found.keys() == {"log_every", "checkpoint_every"}


def test_later_parameters_are_left_out_where_they_change_nothing(
    make_config: Callable[..., Config],
) -> None:
    """So that results and checkpoints made before keep their identity."""
    found = dump_configuration(pretrain=make_config().pretrain)["pretrain"]

    assert "clip_norm" in found
    assert "smallest_crop" not in found
    assert "colour_jitter" not in found


def test_the_digest_depends_on_the_content_alone() -> None:
    one = {"a": 1, "b": {"c": [1, 2], "d": None}}

    assert re.fullmatch("[0-9a-f]{64}", hash_json(one))
    assert hash_json(one) == hash_json({"b": {"d": None, "c": [1, 2]}, "a": 1})
    assert hash_json(one) != hash_json({"a": 1, "b": {"c": [2, 1], "d": None}})
    assert hash_json({"a": 1}) != hash_json({"a": 1.5})


@pytest.fixture(autouse=True)
def _forget_the_environment() -> Iterator[None]:
    yield
    describe_environment.cache_clear()


def find_commit() -> str:
    """Return the commit as a new process finds it."""
    describe_environment.cache_clear()
    return str(describe_environment()["commit"])


def test_the_environment() -> None:
    found = describe_environment()

    assert found["versions"]["torch"] == version("torch")
    assert {"python", "selfie-pipeline", "kedro", "timm"} <= found["versions"].keys()
    assert found["commit"]
    assert describe_environment() == found  # no time, so that equal runs produce equal files


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a module that stands for the project's code."""
    path = tmp_path / "provenance.py"
    path.write_text("one = 1\n")
    monkeypatch.setattr(provenance, "__file__", str(path))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return path


def test_the_commit_is_marked_if_files_have_changed_since(module: Path) -> None:
    folder = module.parent
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "--message=one")
    git(folder, "tag", "--annotate", "v1", "--message=v1")
    commit = git(folder, "rev-parse", "HEAD")

    clean = find_commit()
    module.write_text("one = 2\n")
    changed = find_commit()

    assert (clean, changed) == (commit, f"{commit}-dirty")


def test_a_later_commit_is_not_that_of_the_running_code(module: Path) -> None:
    folder = module.parent
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "--message=one")
    first = find_commit()

    git(folder, "commit", "--allow-empty", "--message=two")

    assert describe_environment()["commit"] == first
    assert find_commit() != first


def test_code_outside_a_checkout(module: Path) -> None:
    assert find_commit() == "unknown: the code is not a git checkout"


def test_code_inside_another_checkout_that_does_not_track_it(module: Path) -> None:
    """As of a package that is installed into a project's ignored environment."""
    folder = module.parent
    git(folder, "init")
    git(folder, "commit", "--allow-empty", "--message=one")

    assert find_commit() == "unknown: the code is not a git checkout"


def test_a_machine_without_git(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(module.parent))

    assert find_commit().startswith("unknown")
