from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable

import pytest

from selfie_pipeline.config import Config, TrainingConfig
from selfie_pipeline.training import progress as module
from selfie_pipeline.training.progress import ProgressBar
from selfie_pipeline.training.state import HistoryRow


class Clock:
    """The seconds since the start, as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def recipe(make_config: Callable[..., Config]) -> TrainingConfig:
    return make_config({"pretrain.steps": 100, "pretrain.batch_size": 20}).pretrain


ROW = HistoryRow(step=40, loss=1.23456, accuracy=0.56789, learning_rate=0.05)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_steps_at_and_before_the_first_one_have_no_rate(
    recipe: TrainingConfig, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Workers of a cluster may resume from an earlier checkpoint than the driver has seen."""
    caplog.set_level(logging.INFO, "selfie_pipeline")
    with ProgressBar("pretrain", recipe, 50) as progress:
        for step in (40, 50, 100):
            clock.now += 60
            progress.update(step, None)

    assert caplog.messages == [
        "pretrain: step 40 of 100, 0 images/s",
        "pretrain: step 50 of 100, 0 images/s",
        "pretrain: 100 steps done, 6 images/s",
    ]


def test_a_line_now_and_then_where_there_is_no_terminal(
    recipe: TrainingConfig, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "selfie_pipeline")
    with ProgressBar("pretrain", recipe, 0) as progress:
        for step in range(1, 100):
            clock.now += 1
            progress.update(step, ROW)

    assert [line.split(",")[0] for line in caplog.messages] == [
        f"pretrain: step {step} of 100" for step in (5, 35, 65, 95)
    ]
    assert caplog.messages[1] == (
        "pretrain: step 35 of 100, 20 images/s, loss 1.235, accuracy 0.568, learning rate 0.05, "
        "01:05 left"
    )


def test_a_line_at_the_end(
    recipe: TrainingConfig, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "selfie_pipeline")
    with ProgressBar("finetune", recipe, 0) as progress:
        clock.now += 40
        progress.update(100, ROW)

    assert caplog.messages == [
        "finetune: 100 steps done, 50 images/s, loss 1.235, accuracy 0.568, learning rate 0.05"
    ]


def test_the_rate_is_that_of_this_run_alone(
    recipe: TrainingConfig, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A resumed training did its first steps in another run."""
    caplog.set_level(logging.INFO, "selfie_pipeline")
    with ProgressBar("pretrain", recipe, 90) as progress:
        clock.now += 10
        progress.update(100, None)

    assert caplog.messages == ["pretrain: 100 steps done, 20 images/s"]


def test_a_bar_on_a_terminal(
    recipe: TrainingConfig,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "selfie_pipeline")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr(module, "_BAR_DELAY_S", 0)
    with ProgressBar("pretrain", recipe, 40) as progress:
        for step in range(41, 100):
            clock.now += 1
            progress.update(step, ROW)
        progress.bar.refresh()
        shown = terminal.getvalue().split("\r")[-1]
        clock.now += 1
        progress.update(100, ROW)

    assert "pretrain: " in shown
    assert "99/100" in shown
    assert "loss 1.235, accuracy 0.568, learning rate 0.05" in shown
    assert [line.split(",")[0] for line in caplog.messages] == ["pretrain: 100 steps done"]


def test_no_bar_for_what_takes_less_than_five_seconds(
    recipe: TrainingConfig, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with ProgressBar("pretrain", recipe, 0) as progress:
        for step in range(1, 101):
            clock.now += 0.01
            progress.update(step, None)

    assert terminal.getvalue().strip("\r\n ") == ""


def test_the_bar_is_closed_when_the_training_fails(
    recipe: TrainingConfig, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(RuntimeError), ProgressBar("pretrain", recipe, 0) as progress:
        raise RuntimeError

    assert progress.bar.disable
