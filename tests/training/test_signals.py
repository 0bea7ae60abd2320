"""Tests of the signal handling."""

from __future__ import annotations

import pickle
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from selfie_pipeline.training.signals import StopRequest, training_interrupted

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def handled() -> Iterator[list[signal.Signals]]:
    """The signals that the previous handlers receive."""
    received: list[signal.Signals] = []

    def record(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))

    saved = {number: signal.signal(number, record) for number in SIGNALS}
    yield received
    for number, handler in saved.items():
        signal.signal(number, handler)


def test_nothing_is_received_at_first() -> None:
    with StopRequest() as stop:
        assert stop.received is None


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_recorded(
    number: signal.Signals, handled: list[signal.Signals]
) -> None:
    with StopRequest() as stop:
        signal.raise_signal(number)

        assert stop.received == number
    assert handled == []


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_signal_is_handled_by_the_previous_handler(
    number: signal.Signals, handled: list[signal.Signals]
) -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(number)

        assert stop.received == signal.SIGTERM
        assert handled == [number]


def test_a_closed_terminal_is_ignored_under_nohup(handled: list[signal.Signals]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGHUP)

        assert stop.received is None
    assert handled == []


def test_an_interruption_has_the_status_of_its_signal_in_another_process_too() -> None:
    stopped = training_interrupted("pretrain", signal.SIGTERM, "step 3 of 60", "auto")

    for error in (stopped, pickle.loads(pickle.dumps(stopped))):
        assert str(error).startswith("pretrain was stopped by SIGTERM after step 3 of 60; run ")
        assert error.exit_code == 143


def test_ctrl_c_twice_exits_at_once() -> None:
    # Python's default handler, which a process started in the background does not have.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopRequest():
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("signalled", [False, True])
def test_the_previous_handlers_are_restored(signalled: bool) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]

    def training() -> None:
        with StopRequest():
            if signalled:
                signal.raise_signal(signal.SIGTERM)
            raise RuntimeError("an error of the training")

    with pytest.raises(RuntimeError, match="of the training"):
        training()

    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_it_does_nothing_in_another_thread() -> None:
    """Only the main thread may set handlers; Kedro's thread runner trains in others."""
    seen: list[object] = []

    def run() -> None:
        with StopRequest() as stop:
            seen.append((stop.received, signal.getsignal(signal.SIGTERM)))

    handler = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    assert seen == [(None, handler)]
