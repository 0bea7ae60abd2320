"""Runs jobs: on this machine, one or several at once, or on a Ray cluster."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TypeVar

import joblib

from selfie_pipeline.config import ComputeConfig
from selfie_pipeline.threads import torch_threads
from selfie_pipeline.training.device import find_device
from selfie_pipeline.training.jobs import Job
from selfie_pipeline.training.memory import available_memory
from selfie_pipeline.training.processes import run_in_processes

_LOG = logging.getLogger(__name__)
R = TypeVar("R")


def run_jobs(jobs: Sequence[Job[R]], compute: ComputeConfig, job_bytes: int) -> list[R]:
    """Run jobs to completion: on this machine, as many at once as it has room for, or on a cluster.

    On a CPU, a job computes with `compute.cpus_per_cell` threads wherever it runs, so its numbers
    do not depend on the jobs beside it.

    Args:
        jobs: Generators that have not been started. The calls that they yield may be pickled.
        compute: Compute parameters.
        job_bytes: Memory that a job takes on a CPU, an estimate.

    Returns:
        Their results, in their order.

    Raises:
        TrainingInterrupted: The user stopped them.
        UserError: A job raised it, or no cluster is large enough. A `WorkerDiedError` is thrown
            into the job, which may handle it.
    """
    if compute.engine == "ray":
        from selfie_pipeline.training.distributed.ray_jobs import (  # noqa: PLC0415  # an extra
            run_ray_jobs,
        )

        return run_ray_jobs(jobs, compute)
    on_cpu = find_device(compute).type == "cpu"
    threads = compute.threads_per_cell
    at_once = compute.cells_at_once
    if at_once == "auto":
        at_once = _count_places(threads, job_bytes) if on_cpu else 1
    if min(at_once, len(jobs)) > 1:
        each = f"{threads} thread{'s' if threads > 1 else ''} each"
        _LOG.info("running %d jobs in parallel, with %s", min(at_once, len(jobs)), each)
        return run_in_processes(jobs, at_once, threads)
    with torch_threads(threads) if on_cpu else nullcontext():
        return [_run_here(job) for job in jobs]


def _count_places(threads: int, job_bytes: int) -> int:
    """Return how many jobs this machine has cores and memory for; 1 or more."""
    cores = max(1, int(joblib.cpu_count()) // threads)
    in_memory = max(1, available_memory() // job_bytes)
    if in_memory < cores:
        _LOG.warning(
            "there is memory for %d job%s in parallel, of about %.1f GiB each; to use more cores "
            "for each, raise compute.cpus_per_cell = %d",
            in_memory,
            "s" if in_memory > 1 else "",
            job_bytes / 2**30,
            threads,
        )
    return min(cores, in_memory)


def _run_here(job: Job[R]) -> R:
    try:
        call = next(job)
        while True:
            call = job.send(call())
    except StopIteration as end:
        result: R = end.value
        return result
