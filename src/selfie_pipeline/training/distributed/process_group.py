"""What the workers that compute a training together agree upon.

Each worker is a process of torch.distributed's default group. Where there is no such group, this
process is the only worker, and nothing here costs anything.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from selfie_pipeline.training.checkpoints import Checkpoint, Checkpoints
from selfie_pipeline.training.signals import StopRequest

T = TypeVar("T")


def workers() -> int:
    """How many there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def all_reduce_mean(values: Tensor) -> Tensor:
    """The mean of the workers' tensors, on the device; a GPU's queue is not waited for."""
    count = workers()
    if count == 1:
        return values
    total = values.clone()
    distributed.all_reduce(total)  # gloo has no mean
    return total / count


def all_gather(value: T) -> list[T]:
    """Every worker's value, in their order; plain data."""
    values: list[Any] = [None] * workers()
    if len(values) == 1:
        return [value]
    distributed.all_gather_object(values, value)
    return values


class SynchronisedStopRequest(StopRequest):
    """All workers stop after the same step, the one after that in which one of them was asked.

    They tell each other while the step is computed, so nobody waits for it.
    """

    def __init__(self, group: distributed.ProcessGroup) -> None:
        """Listen.

        Args:
            group: The workers, able to exchange tensors on the CPU.
        """
        super().__init__()
        self._group = group
        self._exchange: tuple[distributed.Work, Tensor] | None = None

    def ask(self) -> signal.Signals | None:
        """The signal that one of the workers had received a step ago, or None."""
        number = 0
        if self._exchange is not None:
            work, agreed = self._exchange
            work.wait()
            number = int(agreed.item())
        own = torch.tensor(int(self.received or 0))
        work = distributed.all_reduce(own, distributed.ReduceOp.MAX, self._group, async_op=True)
        self._exchange = (work, own)
        return signal.Signals(number) if number else None


@dataclass(frozen=True)
class RankZeroCheckpoints(Checkpoints):
    """The checkpoints of a training of several workers: the first one reads and writes them.

    So all go on from the same step, however late a shared disk shows a file to another machine.
    """

    def save(self, checkpoint: Checkpoint) -> None:
        """As `Checkpoints.save`, by the first worker."""
        if distributed.get_rank() == 0:
            super().save(checkpoint)

    def newest(self) -> Checkpoint | None:
        """As `Checkpoints.newest`: what the first worker finds, on every worker."""
        found = [super().newest() if distributed.get_rank() == 0 else None]
        device = torch.device("cuda") if distributed.get_backend() == "nccl" else None
        distributed.broadcast_object_list(found, device=device)
        return found[0]

    def note(self, name: str, content: Mapping[str, Any]) -> None:
        """As `Checkpoints.note`, by the first worker."""
        if distributed.get_rank() == 0:
            super().note(name, content)
