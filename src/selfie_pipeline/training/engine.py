"""Where trainings run: in this process, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from selfie_pipeline.config import ComputeConfig
from selfie_pipeline.training.device import Device, find_device
from selfie_pipeline.training.jobs import Chain
from selfie_pipeline.training.loop import Fit, fit

R = TypeVar("R")


@dataclass(frozen=True)
class Engine:
    """What trains.

    Attributes:
        fit: Trains a task's network.
        here: Device of this process, for what comes before and after a training.
        name: The processors that train, for the records.
        identity: What of it a training's numbers depend on, by name.
    """

    fit: Fit
    here: Device
    name: str
    identity: dict[str, str]

    @property
    def precision(self) -> str:
        """As Lightning calls it."""
        return self.identity["precision"]


@contextmanager
def open_engine(compute: ComputeConfig) -> Iterator[Engine]:
    """What the configuration asks for; a cluster of this process's own lasts as long as the block.

    Raises:
        UserError: A GPU or bf16 was asked for and is not there, or no cluster that is large enough.
    """
    here = find_device(compute)
    if compute.engine == "local":
        yield Engine(fit, here, here.name, {"precision": here.precision})
        return
    from selfie_pipeline.training.distributed.driver import open_workers  # noqa: PLC0415  # an extra

    with open_workers(compute) as workers:
        yield Engine(workers.fit, here, workers.name, workers.identity)


def run_jobs(chains: Sequence[Chain[R]], compute: ComputeConfig) -> list[R]:
    """Run chains to their ends: one after another, or on a cluster side by side.

    Args:
        chains: None of them started. On a cluster what they yield is pickled.
        compute: Parameters.

    Returns:
        Their results, in their order.

    Raises:
        TrainingInterrupted: The person asked to stop.
        UserError: As the work raises it. On a cluster: there is none that is large enough; or
            `WorkerDiedError`, thrown into the chain, which may deal with it.
    """
    if compute.engine == "local":
        return [_run_here(chain) for chain in chains]
    from selfie_pipeline.training.distributed.ray_jobs import run_ray_jobs  # noqa: PLC0415  # an extra

    return run_ray_jobs(chains, compute)


def _run_here(chain: Chain[R]) -> R:
    try:
        call = next(chain)
        while True:
            call = chain.send(call())
    except StopIteration as end:
        result: R = end.value
        return result
