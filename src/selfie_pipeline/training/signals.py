"""Signal handling: on SIGINT, SIGTERM or SIGHUP a training saves a checkpoint and stops."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from types import FrameType
from typing import Any, Literal, Self

from selfie_pipeline.config import UserError


class TrainingInterrupted(UserError):  # noqa: N818  # not an error
    """A signal stopped a training, which can be resumed."""

    def __init__(self, message: str, received: signal.Signals) -> None:
        super().__init__(message)
        self.args = (message, received)  # with which it is unpickled
        # As of a process that the signal has ended.
        self.exit_code = 128 + received  # type: ignore[misc]


def training_interrupted(
    title: str, received: signal.Signals, when: str, resume: Literal["auto", "never"]
) -> TrainingInterrupted:
    """Return the error for a signal that stopped a training.

    Args:
        title: The training's name.
        received: The signal.
        when: What the training had done, such as "step 3 of 60".
        resume: Whether the training was to resume from its checkpoints; if it was not, the same
            command would start it anew.
    """
    command = resume_command(resume)
    return TrainingInterrupted(
        f"{title} was stopped by {received.name} after {when}; run {command} to resume it", received
    )


def resume_command(resume: Literal["auto", "never"]) -> str:
    """Return the name, in messages, of the command that resumes from checkpoints."""
    return "the same command" + (" without resume=never" if resume == "never" else "")


def stop_signals() -> list[signal.Signals]:
    """Return the signals that stop a run: not SIGHUP where it is ignored, as under `nohup`."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignored else [signal.SIGHUP])]


class StopRequest:
    """Records `stop_signals` while its context is open; a second signal acts as by default.

    In a process of `processes` it does not: a scheduler signals all processes of a group, and the
    parent then asks each to stop once more. The parent kills those that do not stop.

    Attributes:
        received: The first signal received, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # only it may set handlers
            self._previous = {each: signal.signal(each, self._record) for each in stop_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def poll(self) -> signal.Signals | None:
        """Return the first signal received, or None; called once after every step."""
        return self.received

    def missed(self) -> signal.Signals | None:
        """Return the signal received after the last `poll`, or None; called after the last step."""
        return self.received

    def _record(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.received = signal.Signals(number)
        if multiprocessing.parent_process() is None:
            self.__exit__()
