"""Tests of the locks; those of several processes are in the tests of the checkpoints."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from selfie_pipeline.config import UserError
from selfie_pipeline.locks import lock


def test_a_free_path_is_reserved_and_nothing_is_left_behind(tmp_path: Path) -> None:
    with lock(tmp_path / "folder") as reserved:
        assert reserved
        assert [path.name for path in tmp_path.iterdir()] == [".folder.lock"]

    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_in_use_is_not_reserved_without_waiting(tmp_path: Path) -> None:
    with lock(tmp_path / "folder", "train"):
        with lock(tmp_path / "folder") as reserved:
            assert not reserved
        with lock(tmp_path / "another") as reserved:
            assert reserved
        assert (tmp_path / ".folder.lock").exists()  # it is still the first one's


def test_the_lock_is_released_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="within"), lock(tmp_path / "folder", "train"):
        raise ValueError("within")

    with lock(tmp_path / "folder") as reserved:
        assert reserved


def test_a_lock_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / ".folder.lock").mkdir()

    with (
        pytest.raises(UserError, match=r"\.folder\.lock can't be locked: .*; fix the cause"),
        lock(tmp_path / "folder", "train"),
    ):
        pass


def test_a_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lustre without the option flock is such a file system."""

    def flock(*_: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)

    with (
        pytest.raises(UserError, match=r"can't be locked: .*Function not implemented; fix the ca"),
        lock(tmp_path / "folder", "train"),
    ):
        pass
