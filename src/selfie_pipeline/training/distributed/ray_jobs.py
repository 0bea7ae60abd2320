"""Many small things side by side on a Ray cluster, each in a process of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
import torch
from ray.exceptions import RayTaskError, TaskCancelledError

from selfie_pipeline.config import ComputeConfig, UserError
from selfie_pipeline.training.distributed.cluster import (
    cell_need,
    connected,
    describe,
    places,
    wait_for_places,
)
from selfie_pipeline.training.jobs import Chain, WorkerDiedError
from selfie_pipeline.training.signals import StopRequest, TrainingInterrupted

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_STOP = 60
"""That what is under way has to end its step and write a checkpoint."""
R = TypeVar("R")


@dataclass(frozen=True)
class _Refused:
    """What a call raised for the person, in the place of its value."""

    error: UserError


def run_ray_jobs(chains: Sequence[Chain[R]], compute: ComputeConfig) -> list[R]:
    """As `engine.run_jobs`: as many chains at once as the cluster has places for.

    A call whose process dies is made again, on whatever machine has a place, `max_failures` times.
    So it must not matter whether it was made before.
    """
    with connected(), StopRequest() as stop:
        need = cell_need(compute)
        wait_for_places(need)
        _LOG.info("The Ray cluster has %s: %d at once", describe(), places(need))
        execute = ray.remote(_execute).options(
            num_cpus=need.cpus, num_gpus=need.gpus, max_retries=compute.max_failures
        )
        threads = max(1, int(need.cpus))
        waiting = list(enumerate(chains))[::-1]
        under_way: dict[ray.ObjectRef[Any], tuple[int, Chain[R]]] = {}
        results: dict[int, R] = {}

        def advance(number: int, chain: Chain[R], step: Callable[[], Callable[[], Any]]) -> None:
            try:
                under_way[execute.remote(step(), threads)] = (number, chain)
            except StopIteration as end:
                results[number] = end.value

        while waiting or under_way:
            while waiting and len(under_way) < max(places(need), 1):
                number, chain = waiting.pop()
                advance(number, chain, chain.__next__)
            if not under_way:
                break
            ready, _ = ray.wait(list(under_way), timeout=_SECONDS_BETWEEN_LOOKS)
            for answer in ready:
                number, chain = under_way.pop(answer)
                advance(number, chain, lambda: _passed_on(answer, chain))  # noqa: B023  # at once
            if stop.received:
                _stop(list(under_way))
                raise TrainingInterrupted(
                    f"stopped by {stop.received.name}, with {len(results)} of {len(chains)} done; "
                    "run the same command to go on from there"
                )
        return [results[number] for number in range(len(chains))]


def _execute(call: Callable[[], Any], threads: int) -> Any:
    torch.set_num_threads(threads)
    try:
        return call()
    except UserError as error:
        return _Refused(UserError(str(error)))  # any of its kinds, of which not all can be pickled


def _passed_on(answer: ray.ObjectRef[Any], chain: Chain[R]) -> Callable[[], Any]:
    """Tell a chain what came of its call; what it wants to be called next.

    Raises:
        StopIteration: With its result.
        UserError: As the call raised it.
    """
    try:
        value = ray.get(answer)
    except RayTaskError:
        raise  # a fault of ours
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        return chain.throw(
            WorkerDiedError(f"its process died, each time that it was tried: {reason}")
        )
    if isinstance(value, _Refused):
        raise value.error
    return chain.send(value)


def _stop(under_way: list[ray.ObjectRef[Any]]) -> None:
    """Interrupt the calls, as Ctrl-C does, and wait until they have ended."""
    for answer in under_way:
        ray.cancel(answer, force=False)
    ended, late = ray.wait(under_way, num_returns=len(under_way), timeout=_SECONDS_TO_STOP)
    for answer in ended:
        try:
            ray.get(answer)
        except (TaskCancelledError, ray.exceptions.RayError):
            continue
    if late:
        _LOG.warning("%d trainings did not stop; they go on from their last checkpoint", len(late))
