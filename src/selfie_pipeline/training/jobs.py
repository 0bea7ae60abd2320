"""Work of several parts, each of which follows from the one before."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

from selfie_pipeline.config import UserError

R = TypeVar("R")
Chain = Generator[Callable[[], Any], Any, R]
"""Work whose parts follow from one another: it yields what is to be called, is sent what came of
it, and returns its result. `engine.run_jobs` runs it."""


class WorkerDiedError(UserError):  # it says what happened
    """The process that did a part of a chain's work has died, each time that it was tried."""
