"""Jobs: work in several calls, each of which depends on the results of the ones before."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

from selfie_pipeline.config import UserError

R = TypeVar("R")
Job = Generator[Callable[[], Any], Any, R]
"""A generator that yields calls, receives their results, and returns its own.

`engine.run_jobs` runs it; the calls may run in other processes.
"""


class WorkerDiedError(UserError):
    """The process that ran a call of a job died, at every attempt."""
