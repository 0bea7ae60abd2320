from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from selfie_pipeline.config import Config, UserError
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.batches import WindowReader
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.loop import StepCallback
from selfie_pipeline.training.pretraining import pretrain
from selfie_pipeline.training.state import TrainingResult, TrainingState
from selfie_pipeline.training.tensorboard import TensorBoardWriter

STEPS = 8


@pytest.fixture
def train(
    make_config: Callable[..., Config], make_images: Callable[..., WindowReader], tmp_path: Path
) -> Callable[..., TrainingResult]:
    config = make_config(
        {
            "pretrain.steps": STEPS,
            "pretrain.warmup_steps": 2,
            "pretrain.log_every": 2,
            "pretrain.batch_size": 4,
        }
    )

    def run(callbacks: list[StepCallback], checkpoints: Checkpoints) -> TrainingResult:
        return pretrain(
            config.model,
            config.pretrain,
            make_images(config),
            np.arange(20),
            Device("cpu", bf16=False),
            checkpoints,
            callbacks,
        )

    return run


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", {"seed": 0}, every=3, resume="auto")


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """All points of the event files below a folder, as they lie there."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder), purge_orphaned_data=False).Reload()
    return {
        name: [(event.step, event.value) for event in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


def assert_is(found: dict[str, list[tuple[int, float]]], trained: TrainingResult) -> None:
    assert found.keys() == {"loss", "accuracy", "learning_rate"}
    for name, curve in found.items():
        expected = [(row.step, np.float32(getattr(row, name))) for row in trained.history]
        assert curve == expected


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_the_curves_are_the_history_and_change_nothing(
    train: Callable[..., TrainingResult], checkpoints: Checkpoints, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    curves = TensorBoardWriter(checkpoints)

    trained = train([curves], checkpoints)
    plain = train([], Checkpoints(tmp_path / "other", {}, every=10**9, resume="never"))

    assert_is(points(curves.folder), trained)
    assert trained.history == plain.history
    assert all(bool((trained.tensors[name] == plain.tensors[name]).all()) for name in plain.tensors)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_a_resumed_training_has_each_point_once(
    train: Callable[..., TrainingResult], checkpoints: Checkpoints
) -> None:
    pytest.importorskip("tensorboard")
    first, second = TensorBoardWriter(checkpoints), TensorBoardWriter(checkpoints)

    def die_after_a_row_that_no_checkpoint_has(state: TrainingState) -> None:
        first(state)
        if state.step == 5:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train([die_after_a_row_that_no_checkpoint_has], checkpoints)
    trained = train([second], checkpoints)

    assert first.folder == second.folder
    assert [row.step for row in trained.history] == [2, 4, 6, 8]
    assert_is(points(second.folder), trained)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_no_thread_goes_on_writing_after_the_last_step(
    train: Callable[..., TrainingResult], checkpoints: Checkpoints
) -> None:
    pytest.importorskip("tensorboard")
    before = set(threading.enumerate())
    curves, during = TensorBoardWriter(checkpoints), set()

    def write_and_look(state: TrainingState) -> None:
        curves(state)
        if state.step < STEPS:
            during.update(threading.enumerate())

    train([write_and_look], checkpoints)

    writers = {thread for thread in during - before if "tensorboard" in type(thread).__module__}
    assert writers
    assert not any(thread.is_alive() for thread in writers)


def test_other_trainings_have_other_curves(checkpoints: Checkpoints) -> None:
    pytest.importorskip("tensorboard")
    other = replace(checkpoints, identity={"seed": 1})

    assert TensorBoardWriter(checkpoints).folder != TensorBoardWriter(other).folder
    assert TensorBoardWriter(other).folder.parent == checkpoints.folder.parent / "tensorboard"


def test_tensorboard_is_not_installed(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)

    with pytest.raises(UserError, match=r"install it with .*\[tensorboard\]"):
        TensorBoardWriter(checkpoints)
