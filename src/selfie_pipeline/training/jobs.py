"""Jobs, such as cells and searches: trainings whose calls may run in other processes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from selfie_pipeline.config import UserError
from selfie_pipeline.training.signals import TrainingInterrupted

POLL_INTERVAL_S = 0.5
STOP_TIMEOUT_S = 60
"""Time for running calls to end their step and write a checkpoint."""
R = TypeVar("R")
Job = Generator[Callable[[], Any], Any, R]
"""A generator that yields calls, receives their results, and returns its own result.

`job_runner.run_jobs` makes the calls, possibly in other processes. A call may depend on earlier
results.
"""


class WorkerDiedError(UserError):
    """The process that ran a call of a job died, at every attempt."""


@dataclass(frozen=True)
class _Failure:
    """A `UserError` that a call raised, in place of its result.

    Only its message is sent to another process: not all of its subclasses can be pickled.
    """

    message: str
    interrupted: bool


def call_or_failure(call: Callable[[], Any]) -> Any:
    """Return the result of a call, or a `UserError` that it raised, for `result_or_raise`."""
    try:
        return call()
    except UserError as error:
        return _Failure(str(error), isinstance(error, TrainingInterrupted))


def result_or_raise(answer: Any) -> Any:
    """Return what `call_or_failure` returned in another process.

    Raises:
        UserError: The call raised it.
    """
    if isinstance(answer, _Failure):
        raise (TrainingInterrupted if answer.interrupted else UserError)(answer.message)
    return answer


def interruption(received: signal.Signals, done: int, total: int) -> TrainingInterrupted:
    """Return the error for a signal that stopped jobs."""
    return TrainingInterrupted(
        f"stopped by {received.name}, with {done} of {total} done; run the same command to resume"
    )
