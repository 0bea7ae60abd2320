"""Tests of atomic writing: the order of its steps, and its state after failures."""

import errno
import os
import stat
from pathlib import Path

import pytest

from selfie_pipeline.atomic_write import atomic_write


def test_a_file_replaces_the_one_before_and_parents_are_created(tmp_path):
    path = tmp_path / "a/b/text"
    for text in ("before", "after"):
        with atomic_write(path) as partial:
            assert not partial.exists()
            partial.write_text(text)

        assert path.read_text() == text
        assert list(path.parent.iterdir()) == [path]


def test_bytes_are_on_the_disk_before_the_rename(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: steps.append(os.fstat(descriptor).st_ino))
    replace = Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (steps.append("rename"), replace(self, to))
    )

    with atomic_write(tmp_path / "grids") as partial:
        partial.mkdir()
        (partial / "shard").write_text("pixels")

    shard, folder = tmp_path / "grids/shard", tmp_path / "grids"
    inodes = [path.stat().st_ino for path in (shard, folder, tmp_path)]
    assert steps == [inodes[0], inodes[1], "rename", inodes[2]]


def test_an_interruption_removes_the_partial_folder(tmp_path):
    def interrupted():
        with atomic_write(tmp_path / "grids") as partial:
            partial.mkdir()
            (partial / "shard").write_text("pixels")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_file_before(tmp_path, small_disk):
    path = tmp_path / "text"
    path.write_text("before")

    with pytest.raises(OSError, match="large"), small_disk(), atomic_write(path) as partial:
        partial.write_text("after" * 100)

    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_rest_of_a_killed_process_is_removed(tmp_path, kind):
    rest = tmp_path / ".partial-text"
    if kind == "folder":
        rest.mkdir()
        rest = rest / "shard"
    rest.write_text("half")

    with atomic_write(tmp_path / "text") as partial:
        partial.write_text("complete")

    assert [path.name for path in tmp_path.iterdir()] == ["text"]


@pytest.fixture
def fail_to_sync(monkeypatch):
    """Return a function that lets fsync fail with EINVAL for one kind of file."""

    def fail_to_sync(is_kind):
        def fail(descriptor):
            if is_kind(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(os, "fsync", fail)

    return fail_to_sync


def test_file_systems_that_cannot_sync_folders_are_written_to(tmp_path, fail_to_sync):
    """CIFS and vboxsf are such file systems."""
    fail_to_sync(stat.S_ISDIR)

    with atomic_write(tmp_path / "grids") as partial:
        partial.mkdir()
        (partial / "shard").write_text("pixels")

    assert (tmp_path / "grids/shard").read_text() == "pixels"


def test_a_file_that_cannot_be_synced_is_an_error(tmp_path, fail_to_sync):
    fail_to_sync(stat.S_ISREG)

    with (
        pytest.raises(OSError, match="Invalid argument"),
        atomic_write(tmp_path / "text") as partial,
    ):
        partial.write_text("text")

    assert list(tmp_path.iterdir()) == []
