"""Being asked to stop: the training ends after the present step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

from selfie_pipeline.config import UserError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(UserError):  # noqa: N818  # no error of anybody's
    """A training was asked to stop, and can go on where it stopped."""


class StopRequest:
    """Notes SIGINT and SIGTERM while it is entered; asked twice, Python's own handling is back.

    Attributes:
        received: The first signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # only it may set handlers
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def ask(self) -> signal.Signals | None:
        """The first signal that came, or None; called once after every step."""
        return self.received

    def listen(self) -> None:
        """Take the signals back from whoever has set handlers of their own in the meantime."""
        if self.received is None:
            for number in self._before:
                signal.signal(number, self._note)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.received = signal.Signals(number)
        for each, handler in self._before.items():
            signal.signal(each, handler)
