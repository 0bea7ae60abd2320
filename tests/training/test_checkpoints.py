from __future__ import annotations

import errno
import json
import logging
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from selfie_pipeline.config import UserError
from selfie_pipeline.training import checkpoints as module
from selfie_pipeline.training.checkpoints import Checkpoint, Checkpoints

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


def record(store: Checkpoints, step: int) -> Path:
    return weights(store, step).with_suffix(".json")


def test_round_trip(store: Checkpoints) -> None:
    for step in (2, 4):
        store.save(state(step))

    assert same(store.latest(), state(4))


def test_there_are_none_at_first(store: Checkpoints) -> None:
    assert store.latest() is None
    assert not store.folder.exists()


def test_the_newest_are_kept(store: Checkpoints) -> None:
    for step in (2, 4, 6, 8, 10):
        store.save(state(step))

    kept = sorted(path.name for path in store.folder.iterdir())
    expected = {path.name for step in (6, 8, 10) for path in (weights(store, step),)}
    assert set(kept) == expected | {name.replace("safetensors", "json") for name in expected}
    assert same(store.latest(), state(10))


def test_steps_are_ordered_as_numbers(store: Checkpoints) -> None:
    for step in (8, 9, 10, 100):
        store.save(state(step))

    assert same(store.latest(), state(100))
    assert not weights(store, 8).exists()


def test_clear(store: Checkpoints) -> None:
    store.save(state(2))

    store.clear()

    assert store.latest() is None
    assert list(store.folder.iterdir()) == []


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit_of_a_tensor(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def flip_a_bit_of_the_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def cut_the_record_short(path: Path) -> None:
    cut_short(path.with_suffix(".json"))


def empty_the_record(path: Path) -> None:
    empty(path.with_suffix(".json"))


def take_from_the_record(path: Path) -> None:
    content = json.loads(path.with_suffix(".json").read_text())
    del content["sha256"]
    path.with_suffix(".json").write_text(json.dumps(content))


def make_the_record_a_list(path: Path) -> None:
    path.with_suffix(".json").write_text("[]")


def make_the_record_binary(path: Path) -> None:
    path.with_suffix(".json").write_bytes(b"\xff\xfe\x00")


DAMAGES = [
    cut_short,
    flip_a_bit_of_a_tensor,
    flip_a_bit_of_the_header,
    empty,
    remove,
    cut_the_record_short,
    empty_the_record,
    take_from_the_record,
    make_the_record_a_list,
    make_the_record_binary,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_one_is_named_and_the_one_before_it_used(
    store: Checkpoints, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    for step in (2, 4):
        store.save(state(step))
    damage(weights(store, 4))

    found = store.latest()

    assert same(found, state(2))
    (line,) = caplog.messages
    assert line.startswith(f"{weights(store, 4)} is not used: ")
    assert "\n" not in line


def test_all_damaged_is_none(store: Checkpoints, caplog: pytest.LogCaptureFixture) -> None:
    for step in (2, 4):
        store.save(state(step))
        cut_short(weights(store, step))

    assert store.latest() is None
    assert len(caplog.messages) == 2


def test_a_damaged_one_is_replaced_when_the_training_gets_there_again(store: Checkpoints) -> None:
    for step in (2, 4):
        store.save(state(step))
    empty(weights(store, 4))
    empty_the_record(weights(store, 4))

    store.save(state(4))

    assert same(store.latest(), state(4))


def test_one_of_another_training_is_not_used(
    store: Checkpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(state(2))
    other = {"configuration": {"pretrain": {"steps": 10, "seed": 0}}, "data": "beef", "seed": None}

    assert open_store(tmp_path, other).latest() is None

    (line,) = caplog.messages
    assert str(weights(store, 2)) in line
    assert line.endswith("it was made with different configuration.pretrain.steps, data")


@pytest.mark.parametrize(
    "changes",
    [{"seed": 0}, {"more": 1}, {"configuration": None}],
    ids=["value for null", "surplus key", "null for a group"],
)
def test_any_difference_makes_another_training(
    store: Checkpoints, tmp_path: Path, changes: dict[str, Any]
) -> None:
    store.save(state(2))

    assert open_store(tmp_path, IDENTITY | changes).latest() is None


def test_order_and_tuples_make_no_difference(store: Checkpoints, tmp_path: Path) -> None:
    """What JSON does to an identity does not make it another one."""
    identity = {"b": {"y": (1, 2), "x": 0.1}, "a": None}
    open_store(tmp_path, identity).save(state(2))

    again = open_store(tmp_path, {"a": None, "b": {"x": 0.1, "y": [1, 2]}})

    assert same(again.latest(), state(2))


def test_those_of_a_longer_training_do_not_crowd_out_a_new_one(
    store: Checkpoints, tmp_path: Path
) -> None:
    for step in (100, 102, 104):
        store.save(state(step))
    other = open_store(tmp_path, {"seed": 1})
    assert other.latest() is None

    other.save(state(2))

    assert same(other.latest(), state(2))


def test_never_starts_anew(
    store: Checkpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(state(2))
    caplog.set_level(logging.INFO)

    assert open_store(tmp_path, resume="never").latest() is None

    assert caplog.messages == [f"resume = never: the checkpoints in {store.folder} are not used"]
    assert store.latest() is None  # nor by the run after it


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing further than that into any file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 100], ids=["at once", "part of the way"])
def test_a_save_that_the_system_refuses(store: Checkpoints, size: int) -> None:
    store.save(state(2))

    with files_of_at_most(size), pytest.raises(UserError) as caught:
        store.save(state(4))

    message = str(caught.value)
    assert message.startswith(f"the checkpoint at step 4 was not saved in {store.folder}: ")
    assert "free space" in message
    assert "\n" not in message
    assert same(store.latest(), state(2))
    assert not list(store.folder.glob(".partial-*.safetensors"))


def test_a_full_disk(store: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_no_permission(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder is to be")

    with pytest.raises(UserError, match=r"not saved in .*permissions"):
        open_store(tmp_path).save(state(2))


class Killed(BaseException):
    """Where the process ends; nothing in it may tidy up."""


@pytest.mark.parametrize("step", [4, 6], ids=["a new step", "a step saved before"])
@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("save_file", 1),
        ("_sha256", 1),
        ("_flush", 1),
        ("_write_whole", 1),
        ("_flush", 2),
        ("_flush", 3),
    ],
)
def test_a_process_that_dies_while_saving_leaves_the_one_before(
    store: Checkpoints, monkeypatch: pytest.MonkeyPatch, function: str, call: int, step: int
) -> None:
    """Dead before each of the actions of a save."""
    store.save(state(2))
    store.save(state(4))
    if step == 4:
        weights(store, 4).write_bytes(b"damaged, so the training comes here again")
    original = getattr(module, function)
    calls = 0

    def dies(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, function, dies)
        with pytest.raises(Killed):
            store.save(state(step))

    before = state(2 if step == 4 else 4)
    # Only the folder's entry is left to be flushed; or the same bytes as before are in place.
    whole = (function, call) == ("_flush", 3)
    whole |= step == 4 and (function, call) in {("_write_whole", 1), ("_flush", 2)}
    assert same(store.latest(), state(step) if whole else before)
    store.save(state(step))
    assert same(store.latest(), state(step))
