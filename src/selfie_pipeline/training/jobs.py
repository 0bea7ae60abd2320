"""Jobs, such as cells and searches: trainings whose calls may run in other processes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator
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


def jobs_interrupted(received: signal.Signals, done: int, total: int) -> TrainingInterrupted:
    """Return the error for a signal that stopped jobs."""
    return TrainingInterrupted(
        f"stopped by {received.name}, with {done} of {total} done; run the same command "
        "(without resume=never) to resume",
        received,
    )
