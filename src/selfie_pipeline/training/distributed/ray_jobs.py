"""Runs jobs in parallel on a Ray cluster, each call in a process of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from selfie_pipeline.config import ComputeConfig, UserError
from selfie_pipeline.training.distributed.cluster import (
    capacity,
    connect,
    describe_cluster,
    job_request,
    wait_for_capacity,
)
from selfie_pipeline.training.jobs import (
    POLL_INTERVAL_S,
    STOP_TIMEOUT_S,
    Job,
    WorkerDiedError,
    jobs_interrupted,
)
from selfie_pipeline.training.signals import StopRequest

_LOG = logging.getLogger(__name__)
R = TypeVar("R")


def run_ray_jobs(jobs: Sequence[Job[R]], compute: ComputeConfig) -> list[R]:
    """Run as many jobs at once as the cluster has resources for; see `job_runner.run_jobs`.

    A call whose process dies is repeated up to `max_failures` times, on any machine. So calls must
    be idempotent.
    """
    with connect(), StopRequest() as stop:
        request = job_request(compute)
        wait_for_capacity(request)
        _LOG.info(
            "The Ray cluster has %s: up to %d jobs in parallel",
            describe_cluster(),
            capacity(request),
        )
        # Not with `options`: then a process would keep its GPU, and its memory, for other calls.
        execute = ray.remote(
            num_cpus=request.cpus, num_gpus=request.gpus, max_retries=compute.max_failures
        )(_execute)
        waiting = list(enumerate(jobs))[::-1]
        running: dict[ray.ObjectRef[Any], tuple[int, Job[R]]] = {}
        results: dict[int, R] = {}

        def advance(number: int, job: Job[R], step: Callable[[], Callable[[], Any]]) -> None:
            try:
                running[execute.remote(step(), compute.threads_per_cell)] = (number, job)
            except StopIteration as end:
                results[number] = end.value

        with _cancelled_on_error(running):
            while waiting or running:
                while waiting and len(running) < max(capacity(request), 1):
                    number, job = waiting.pop()
                    advance(number, job, job.__next__)
                if not running:
                    break
                ready, _ = ray.wait(list(running), timeout=POLL_INTERVAL_S)
                for answer in ready:
                    number, job = running.pop(answer)
                    advance(number, job, lambda: _send_result(answer, job))  # noqa: B023  # at once
                if stop.received:
                    raise jobs_interrupted(stop.received, len(results), len(jobs))
        return [results[number] for number in range(len(jobs))]


def _execute(call: Callable[[], Any], threads: int) -> Any:
    torch.set_num_threads(threads)
    return call()


def _send_result(answer: ray.ObjectRef[Any], job: Job[R]) -> Callable[[], Any]:
    """Send a job the result of its call, and return its next call.

    Raises:
        StopIteration: The job has returned.
        UserError: The call raised it.
    """
    try:
        value = ray.get(answer)
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, UserError) else error) from None
    except RayError as error:
        reason = str(error).strip().splitlines()[0]
        return job.throw(WorkerDiedError(f"its process died at every attempt: {reason}"))
    return job.send(value)


@contextmanager
def _cancelled_on_error(running: Collection[ray.ObjectRef[Any]]) -> Iterator[None]:
    """If an error ends the context, let the calls that run by then save their state."""
    try:
        yield
    except BaseException:
        for answer in running:
            ray.cancel(answer, force=False)  # as Ctrl-C does
        ended, late = ray.wait(list(running), num_returns=len(running), timeout=STOP_TIMEOUT_S)
        for answer in ended:
            with suppress(RayError):
                ray.get(answer)
        if late:
            _LOG.warning(
                "%d trainings did not stop; they resume from their last checkpoint", len(late)
            )
        raise
