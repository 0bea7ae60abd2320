from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from selfie_pipeline.training.signals import StopRequest

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture
def before() -> Iterator[list[signal.Signals]]:
    """Handlers that note what came, in place before and after."""
    came: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(signal.Signals(number))

    saved = {number: signal.signal(number, note) for number in SIGNALS}
    yield came
    for number, handler in saved.items():
        signal.signal(number, handler)


def test_nothing_is_received_at_first() -> None:
    with StopRequest() as stop:
        assert stop.received is None


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted(number: signal.Signals, before: list[signal.Signals]) -> None:
    with StopRequest() as stop:
        signal.raise_signal(number)

        assert stop.received == number
    assert before == []


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_is_handled_as_before(
    number: signal.Signals, before: list[signal.Signals]
) -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(number)

        assert stop.received == signal.SIGTERM
        assert before == [number]


def test_ctrl_c_twice_leaves_at_once() -> None:
    # Python's own handler, which a process started in the background does not get.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopRequest():
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("asked", [False, True])
def test_the_handlers_before_are_back_afterwards(asked: bool) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]

    def training() -> None:
        with StopRequest():
            if asked:
                signal.raise_signal(signal.SIGTERM)
            raise RuntimeError("an error of the training")

    with pytest.raises(RuntimeError, match="of the training"):
        training()

    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_in_another_thread_it_does_nothing() -> None:
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
