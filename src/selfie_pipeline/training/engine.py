"""Runs trainings and other jobs locally or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from selfie_pipeline.config import ComputeConfig, UserError
from selfie_pipeline.training.device import Device, find_device
from selfie_pipeline.training.loop import Fit, fit

R = TypeVar("R")
Job = Generator[Callable[[], Any], Any, R]
"""A generator that yields calls, receives their results, and returns its own result.

`run_jobs` makes the calls, possibly in other processes. A call may depend on earlier results.
"""


class WorkerDiedError(UserError):
    """The process that ran a call of a job died, at every attempt."""


@dataclass(frozen=True)
class Engine:
    """The means to run trainings.

    Attributes:
        fit: The training loop.
        here: Device of this process, for the work before and after a training.
        name: Name of the processors that train, for the records.
        identity: Properties that a training's numbers depend on, by name.
    """

    fit: Fit
    here: Device
    name: str
    identity: dict[str, str]

    @property
    def precision(self) -> str:
        """The precision, as records have it."""
        return self.identity["precision"]


@contextmanager
def open_engine(compute: ComputeConfig) -> Iterator[Engine]:
    """Open the engine that the configuration asks for, with its cluster if it has one.

    Raises:
        UserError: A GPU or bf16 is requested and missing, or no cluster is large enough.
    """
    here = find_device(compute)
    if compute.engine == "local":
        yield Engine(fit, here, here.name, {"precision": here.precision})
        return
    from selfie_pipeline.training.distributed.driver import open_workers  # noqa: PLC0415  # an extra

    with open_workers(compute) as workers:
        yield Engine(workers.fit, here, workers.name, workers.identity)


def run_jobs(jobs: Sequence[Job[R]], compute: ComputeConfig) -> list[R]:
    """Run jobs to completion: one after another, or in parallel on a cluster.

    Args:
        jobs: Generators that have not been started. On a cluster, the calls they yield are pickled.
        compute: Compute parameters.

    Returns:
        Their results, in their order.

    Raises:
        TrainingInterrupted: The user stopped them.
        UserError: A job raised it, or no cluster is large enough. A `WorkerDiedError` is thrown
            into the job, which may handle it.
    """
    if compute.engine == "local":
        return [_run_locally(job) for job in jobs]
    from selfie_pipeline.training.distributed.ray_jobs import run_ray_jobs  # noqa: PLC0415  # extra

    return run_ray_jobs(jobs, compute)


def _run_locally(job: Job[R]) -> R:
    try:
        call = next(job)
        while True:
            call = job.send(call())
    except StopIteration as end:
        result: R = end.value
        return result
