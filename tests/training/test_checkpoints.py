"""Tests of the checkpoints: resuming, damaged files, full disks and killed processes."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import Any, Literal

import pytest
import torch

from selfie_pipeline import atomic_write
from selfie_pipeline.config import UserError
from selfie_pipeline.training import checkpoints as module
from selfie_pipeline.training.checkpoints import (
    Checkpoint,
    Checkpoints,
    remove_completed,
    remove_leftovers,
)

IDENTITY = {"configuration": {"pretrain": {"steps": 9, "seed": 0}}, "data": "f00d", "seed": None}


@pytest.fixture
def store(tmp_path: Path) -> Checkpoints:
    return open_store(tmp_path)


def open_store(
    folder: Path, identity: Any = None, resume: Literal["auto", "never"] = "auto"
) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", identity or IDENTITY, every=2, resume=resume)


def state(step: int) -> Checkpoint:
    random = torch.Generator().manual_seed(step)
    tensors = {
        "network.weight": torch.randn(8, 4, generator=random),
        "network.batches": torch.tensor(step),
        "history": torch.randn(2, 4, generator=random, dtype=torch.float64),
    }
    return Checkpoint(step, tensors)


def same(one: Checkpoint | None, other: Checkpoint) -> bool:
    return (
        one is not None
        and one.step == other.step
        and one.tensors.keys() == other.tensors.keys()
        and all(
            tensor.dtype == other.tensors[name].dtype and torch.equal(tensor, other.tensors[name])
            for name, tensor in one.tensors.items()
        )
    )


def weights(store: Checkpoints, step: int) -> Path:
    return store.folder / f"step-{step:09d}.safetensors"


def test_round_trip(store: Checkpoints) -> None:
    for step in (2, 4):
        store.save(state(step))

    assert same(store.latest(), state(4))


def test_a_new_store_is_empty(store: Checkpoints) -> None:
    assert store.latest() is None
    assert not store.folder.exists()


def test_the_latest_are_kept(store: Checkpoints) -> None:
    for step in (2, 4, 6, 8, 10):
        store.save(state(step))

    files = {weights(store, step) for step in (6, 8, 10)}
    assert set(store.folder.iterdir()) == files | {file.with_suffix(".json") for file in files}
    assert same(store.latest(), state(10))


def test_all_can_be_kept_whatever_their_order(store: Checkpoints) -> None:
    store = replace(store, keep=None)
    steps = [8, 6, 2, 4, 10]

    for step in steps:
        store.save(state(step))

    found = list(store.usable())
    assert [checkpoint.step for checkpoint in found] == sorted(steps, reverse=True)
    assert all(same(checkpoint, state(checkpoint.step)) for checkpoint in found)


def test_steps_are_ordered_as_numbers(store: Checkpoints) -> None:
    for step in (8, 9, 10, 100):
        store.save(state(step))

    assert same(store.latest(), state(100))
    assert not weights(store, 8).exists()


def flip_bit(content: bytes, index: int) -> bytes:
    return content[:index] + bytes([content[index] ^ 1]) + content[index:][1:]


Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, tuple[str, Damage]] = {
    "truncated": (".safetensors", lambda content: content[:-7]),
    "flipped bit of a tensor": (".safetensors", lambda content: flip_bit(content, -3)),
    "flipped bit of the header": (".safetensors", lambda content: flip_bit(content, 3)),
    "empty": (".safetensors", lambda _: b""),
    "truncated record": (".json", lambda content: content[:-7]),
    "empty record": (".json", lambda _: b""),
    "record without a checksum": (".json", lambda content: content.replace(b"sha256", b"other")),
    "list as record": (".json", lambda _: b"[]"),
    "binary record": (".json", lambda _: b"\xff\xfe\x00"),
    "text as step": (".json", lambda content: content.replace(b'"step": 4', b'"step": "4"')),
    "negative step": (".json", lambda content: content.replace(b'"step": 4', b'"step": -4')),
    "list as identity": (
        ".json",
        lambda content: re.sub(rb'"identity": .*}', b'"identity": []}', content),
    ),
    "endless nesting": (".json", lambda _: b"[" * 100_000),
}


@pytest.mark.parametrize(("suffix", "damage"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_named_and_the_previous_one_is_used(
    store: Checkpoints, suffix: str, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (2, 4):
        store.save(state(step))
    file = weights(store, 4).with_suffix(suffix)
    file.write_bytes(damage(file.read_bytes()))

    assert_only_the_first_is_usable(store, caplog)


def test_a_file_that_is_no_safetensors_is_named_and_the_previous_checkpoint_is_used(
    store: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (2, 4):
        store.save(state(step))
    file = weights(store, 4)
    file.write_bytes(b"no safetensors")
    record = json.loads(file.with_suffix(".json").read_text())
    record["sha256"] = hashlib.sha256(b"no safetensors").hexdigest()
    file.with_suffix(".json").write_text(json.dumps(record))

    assert_only_the_first_is_usable(store, caplog)


def test_a_missing_file_is_named_and_the_previous_checkpoint_is_used(
    store: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (2, 4):
        store.save(state(step))
    weights(store, 4).unlink()

    assert_only_the_first_is_usable(store, caplog)


def assert_only_the_first_is_usable(store: Checkpoints, caplog: pytest.LogCaptureFixture) -> None:
    assert same(store.latest(), state(2))
    (line,) = caplog.messages
    assert line.startswith(f"{weights(store, 4)} is not used: ")
    assert "\n" not in line


def test_there_is_no_latest_if_all_are_damaged(
    store: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (2, 4):
        store.save(state(step))
        weights(store, step).write_bytes(b"truncated")

    assert store.latest() is None
    assert len(caplog.messages) == 2


def test_a_damaged_checkpoint_is_replaced_when_the_training_reaches_its_step_again(
    store: Checkpoints,
) -> None:
    for step in (2, 4):
        store.save(state(step))
    for suffix in (".safetensors", ".json"):
        weights(store, 4).with_suffix(suffix).write_bytes(b"")

    store.save(state(4))

    assert same(store.latest(), state(4))


def test_a_checkpoint_of_another_training_is_not_used(
    store: Checkpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(state(2))
    other = {"configuration": {"pretrain": {"steps": 10, "seed": 0}}, "data": "beef", "seed": None}
    caplog.set_level(logging.INFO)

    with open_store(tmp_path, other).reserved("pretrain"):
        assert open_store(tmp_path, other).latest() is None

    assert caplog.messages == [
        f"pretrain: starts from scratch; the checkpoints in {store.folder} have different "
        "configuration.pretrain.steps, data"
    ]


@pytest.mark.parametrize(
    "changes",
    [{"seed": 0}, {"more": 1}, {"configuration": None}],
    ids=["value for null", "surplus key", "null for a group"],
)
def test_any_difference_in_identity_makes_another_training(
    store: Checkpoints, tmp_path: Path, changes: dict[str, Any]
) -> None:
    store.save(state(2))

    assert open_store(tmp_path, IDENTITY | changes).latest() is None


def test_order_and_tuples_make_no_difference(tmp_path: Path) -> None:
    """JSON changes both; the identity stays equal."""
    identity = {"b": {"y": (1, 2), "x": 0.1}, "a": None}
    open_store(tmp_path, identity).save(state(2))

    again = open_store(tmp_path, {"a": None, "b": {"x": 0.1, "y": [1, 2]}})

    assert same(again.latest(), state(2))


def test_a_short_training_leaves_the_checkpoints_of_a_longer_one(
    store: Checkpoints, tmp_path: Path
) -> None:
    store.save(state(5000))
    other = open_store(tmp_path, {"seed": 1})

    with other.reserved("pretrain"):
        other.save(state(2))
        assert same(other.latest(), state(2))
    remove_completed(other.path)

    assert not other.folder.exists()
    assert same(store.latest(), state(5000))


def test_damaged_checkpoints_of_later_steps_do_not_displace_new_ones(store: Checkpoints) -> None:
    for step in (100, 102, 104):
        store.save(state(step))
        weights(store, step).write_bytes(b"damaged")

    store.save(state(2))

    assert same(store.latest(), state(2))


def test_never_starts_from_scratch(
    store: Checkpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(state(2))
    caplog.set_level(logging.INFO)

    assert open_store(tmp_path, resume="never").latest() is None

    assert caplog.messages == [f"resume = never: the checkpoints in {store.folder} are not used"]
    assert store.latest() is None  # not even in the next run


@contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """Make writing beyond this size fail in any file, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 100], ids=["at the first byte", "after 100 bytes"])
def test_a_refused_save_keeps_the_previous_checkpoint(store: Checkpoints, size: int) -> None:
    store.save(state(2))

    with limited_file_size(size), pytest.raises(UserError) as caught:
        store.save(state(4))

    message = str(caught.value)
    assert message.startswith(f"the checkpoint at step 4 was not saved in {store.folder}: ")
    assert "free space" in message
    assert "\n" not in message
    assert same(store.latest(), state(2))
    assert not list(store.folder.glob(".partial-*.safetensors"))


def test_a_refused_save_names_the_command_that_resumes(tmp_path: Path) -> None:
    store = open_store(tmp_path, resume="never")

    with (
        limited_file_size(0),
        pytest.raises(UserError, match="run the same command without resume=never to resume"),
    ):
        store.save(state(4))


def test_a_full_disk_keeps_old_checkpoints(
    store: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for step in (2, 4, 6):
        store.save(state(step))
    with monkeypatch.context() as patch:
        patch.setattr(module, "save_file", full)
        with pytest.raises(UserError, match=r"step 8 was not saved.*No space left on device"):
            store.save(state(8))

    assert same(store.latest(), state(6))
    assert weights(store, 2).exists()
    store.save(state(8))
    assert same(store.latest(), state(8))


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.folder.write_text("a file in place of the folder")

    with pytest.raises(UserError, match=r"not saved in .*permissions"):
        store.save(state(2))


class Killed(BaseException):
    """The death of the process; no cleanup runs after it."""


@pytest.mark.parametrize("step", [4, 6], ids=["a step saved before", "a new step"])
@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("save_file", 1),
        ("_sha256", 1),
        ("fsync", 1),  # the weights
        ("fsync", 2),  # the folder, after the weights were renamed
        ("atomic_write", 2),  # of the record
        ("fsync", 3),  # the record
        ("fsync", 4),  # the folder, after the record was renamed
    ],
)
def test_a_process_that_dies_while_saving_leaves_the_previous_checkpoint(
    store: Checkpoints, monkeypatch: pytest.MonkeyPatch, function: str, call: int, step: int
) -> None:
    """The process dies before each of the actions of a save."""
    store.save(state(2))
    store.save(state(4))
    if step == 4:
        weights(store, 4).write_bytes(b"damaged, so the training reaches this step again")
    owner = atomic_write if function == "fsync" else module
    original = getattr(owner, function)
    calls = 0

    with monkeypatch.context() as patch:

        def die_at_call(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                patch.setattr(atomic_write, "remove", lambda _: None)
                raise Killed
            return original(*arguments)

        patch.setattr(owner, function, die_at_call)
        with pytest.raises(Killed):
            store.save(state(step))

    before = state(2 if step == 4 else 4)
    # Only the folder remains to be flushed; or the same bytes as before are in place.
    saved = (function, call) == ("fsync", 4)
    saved |= step == 4 and (function, call) in {("fsync", 2), ("atomic_write", 2), ("fsync", 3)}
    assert same(store.latest(), state(step) if saved else before)
    store.save(state(step))
    assert same(store.latest(), state(step))


def open_training(folder: Path, seed: int = 0) -> Checkpoints:
    return open_store(folder, identity={"seed": seed})


OWNER = """
import sys, time
from pathlib import Path
from selfie_pipeline.training.checkpoints import Checkpoints

path, seed = Path(sys.argv[1]), int(sys.argv[2])
own = Checkpoints(path, {"seed": seed}, every=2, resume="auto")
with own.reserved("pretrain"):
    print(own.folder, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def start_owner(tmp_path: Path) -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    """Return a function that starts a process which holds the lock of a training's folder."""
    processes = []

    def start(seed: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(tmp_path / "checkpoints"), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def reserved_folder(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().strip())


def test_a_reserved_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    with open_training(tmp_path).reserved("pretrain"):
        assert len(list(tmp_path.iterdir())) == 1  # the lock

    assert list(tmp_path.iterdir()) == []


def test_the_same_training_waits_until_its_owner_has_died(
    tmp_path: Path,
    start_owner: Callable[[int], subprocess.Popen[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    own, owner = open_training(tmp_path), start_owner(0)
    assert reserved_folder(owner) == own.folder
    Timer(1, owner.kill).start()

    with own.reserved("pretrain"):
        assert owner.wait() == -signal.SIGKILL

    assert caplog.messages == [
        f"pretrain: waits for process {owner.pid} on {socket.gethostname()}, which uses "
        f"{own.folder}"
    ]


def test_another_training_does_not_wait(
    tmp_path: Path, start_owner: Callable[[int], subprocess.Popen[str]]
) -> None:
    own = open_training(tmp_path, seed=1)
    assert reserved_folder(start_owner(0)).parent == own.folder.parent

    with own.reserved("pretrain"):
        own.save(state(2))

    assert own.folder.name.startswith("checkpoints-")
    assert same(own.latest(), state(2))


def test_only_one_of_many_that_start_at_once_has_the_folder(
    tmp_path: Path, start_owner: Callable[[int], subprocess.Popen[str]]
) -> None:
    processes = [start_owner(0) for _ in range(4)]
    assert all(process.stdout for process in processes)
    for _ in processes:
        ready = select.select([process.stdout for process in processes], [], [], 300)[0]
        (owner,) = [process for process in processes if process.stdout in ready]
        assert reserved_folder(owner) == open_training(tmp_path).folder
        time.sleep(0.2)  # for a second one that should not come
        others = [process for process in processes if process is not owner]
        assert select.select([process.stdout for process in others], [], [], 0)[0] == []
        processes = others
        owner.communicate("done\n")


def test_leftovers_are_of_a_training_with_this_lineage(store: Checkpoints) -> None:
    store.save(state(2))
    lineage = dict(list(IDENTITY.items())[:1])
    (key,) = lineage

    remove_leftovers(store.path, {**lineage, key: "another"})
    assert store.folder.exists()
    record = weights(store, 2).with_suffix(".json")
    content = record.read_text()
    record.write_text("{")
    remove_leftovers(store.path, lineage)
    assert store.folder.exists()
    record.write_text(content)
    remove_leftovers(store.path, lineage)
    assert not store.folder.exists()
    store.folder.mkdir()  # left by a process that was killed while it removed the files
    remove_leftovers(store.path, lineage)
    assert not store.folder.exists()


def test_checkpoints_in_use_are_not_removed(
    tmp_path: Path, start_owner: Callable[[int], subprocess.Popen[str]]
) -> None:
    own, owner = open_training(tmp_path), start_owner(0)
    reserved_folder(owner)
    own.save(state(2))

    own.remove()
    assert own.folder.exists()
    owner.communicate("done\n")
    own.remove()

    assert list(tmp_path.iterdir()) == []


def test_only_completed_trainings_lose_their_checkpoints(tmp_path: Path) -> None:
    completed, stopped = open_training(tmp_path), open_training(tmp_path, seed=1)
    with completed.reserved("pretrain"):
        completed.save(state(4))
    with suppress(KeyboardInterrupt), stopped.reserved("pretrain"):
        stopped.save(state(2))
        raise KeyboardInterrupt

    remove_completed(tmp_path / "checkpoints")

    assert not completed.folder.exists()
    assert same(stopped.latest(), state(2))


def test_checkpoints_that_were_never_saved_can_be_removed(tmp_path: Path) -> None:
    open_training(tmp_path).remove()
    remove_completed(tmp_path / "checkpoints")

    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    own = open_training(tmp_path)
    (tmp_path / f".{own.folder.name}.lock").mkdir()

    with (
        pytest.raises(UserError, match=r"checkpoints-\w+\.lock can't be locked: .*; fix the cause"),
        own.reserved("pretrain"),
    ):
        pass


@pytest.mark.parametrize("step", [1, 3, "2", 2.5, None])
def test_a_record_of_another_step_is_not_used(store: Checkpoints, step: object) -> None:
    store.save(state(2))
    record = store.folder / "step-000000002.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "step": step}))

    assert store.latest() is None
