"""Where the workers of a training and the driver meet: an actor on the driver's machine.

It imports nothing heavy, for it is a process of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Row = tuple[int, float, float, float]
"""As `tasks.HistoryRow`."""


@dataclass(frozen=True)
class End:
    """How a training ended that did not come to its last step, for a reason that is told.

    Attributes:
        message: For the person.
        interrupted: Whether the person had asked for it.
    """

    message: str
    interrupted: bool


@dataclass
class News:
    """What the workers have told.

    Attributes:
        starts: How many times they have begun or gone on.
        done: Steps done.
        newest: The newest row of the history, if there is one.
        messages: Of the first worker's log since the driver last asked: level, text.
        end: Why they ended early, or None.
    """

    starts: int = 0
    done: int = 0
    newest: Row | None = None
    messages: list[tuple[int, str]] = field(default_factory=list)
    end: End | None = None


class Board:
    """The state of one training."""

    def __init__(self) -> None:
        self._news = News()
        self._signal = 0

    def start(self) -> bool:
        """The first worker begins or goes on; whether there is anything left to do."""
        self._news.starts += 1
        return self._news.end is None

    def report(self, done: int, newest: Row | None) -> int:
        """The first worker tells how far it is; the signal that the driver received, or 0."""
        self._news.done = done
        self._news.newest = newest
        return self._signal

    def say(self, level: int, text: str) -> None:
        """A message of the first worker's log."""
        self._news.messages.append((level, text))

    def finish(self, end: End) -> None:
        """A worker ended early; the first reason counts."""
        self._news.end = self._news.end or end

    def stop(self, number: int) -> None:
        """The driver received a signal."""
        self._signal = number

    def read(self) -> News:
        """Everything that is new."""
        news = News(**vars(self._news))
        self._news.messages = []
        return news
