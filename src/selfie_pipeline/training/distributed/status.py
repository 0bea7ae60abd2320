"""The shared status of a distributed training: an actor that its workers and the driver call.

The actor is a process of its own on the driver's machine, so this module imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

Row = tuple[int, float, float, float]
"""A `state.HistoryRow`, as plain data."""


@dataclass
class TrainingStatus:
    """The status that the workers have reported.

    Attributes:
        starts: Number of times that they started or resumed.
        step: Steps completed.
        latest: Latest row of the history, if there is one.
        messages: Log records of the first worker since the last read: level, text.
        end: The error message for the user if they ended early, or None.
        interrupted: Whether the user had asked for this end.
    """

    starts: int = 0
    step: int = 0
    latest: Row | None = None
    messages: list[tuple[int, str]] = field(default_factory=list)
    end: str | None = None
    interrupted: bool = False


class StatusActor:
    """Holds the status of one training."""

    def __init__(self) -> None:
        self._status = TrainingStatus()
        self._signal = 0

    def start(self) -> None:
        """Count a start of the workers."""
        self._status.starts += 1

    def report(self, step: int, latest: Row | None) -> int:
        """Report the first worker's progress; return the signal that the driver received, or 0."""
        self._status.step = step
        self._status.latest = latest
        return self._signal

    def log(self, level: int, text: str) -> None:
        """Add a log record of the first worker."""
        self._status.messages.append((level, text))

    def end(self, message: str, interrupted: bool) -> None:
        """Report an early end; the first one counts."""
        if self._status.end is None:
            self._status.end, self._status.interrupted = message, interrupted

    def request_stop(self, number: int) -> None:
        """Pass on a signal that the driver received."""
        self._signal = number

    def has_ended(self) -> bool:
        """Return whether the training has ended early."""
        return self._status.end is not None

    def read(self) -> TrainingStatus:
        """Return the status, with the messages since the last read."""
        status = replace(self._status)
        self._status.messages = []
        return status
