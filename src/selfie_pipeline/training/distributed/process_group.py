"""Collective operations of the workers that train together.

Each worker is a process of torch.distributed's default group. Without such a group, this process
is the only worker, and these functions return at once.
"""

from __future__ import annotations

import signal
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from selfie_pipeline.training.checkpoints import Checkpoint, Checkpoints
from selfie_pipeline.training.signals import StopRequest

T = TypeVar("T")


def world_size() -> int:
    """Return the number of workers."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def all_reduce_mean(values: Tensor) -> Tensor:
    """Return the mean of the workers' tensors, on the device, without waiting for a GPU."""
    count = world_size()
    if count == 1:
        return values
    total = values.clone()
    distributed.all_reduce(total)  # gloo has no mean
    return total / count


def all_gather(value: T) -> list[T]:
    """Return every worker's value (plain data) in the order of their ranks."""
    values: list[Any] = [None] * world_size()
    if len(values) == 1:
        return [value]
    distributed.all_gather_object(values, value)
    return values


def data_parallel(model: nn.Module, device: str) -> nn.Module:
    """Return the model with its gradients averaged over the workers; itself if there is one.

    Args:
        model: The model, on this worker's device.
        device: `cpu` or `cuda`.
    """
    if world_size() == 1:
        return model
    return DistributedDataParallel(
        model,
        broadcast_buffers=False,  # synchronised, or each worker's own; the first one's are saved
        # Otherwise the gradients' buckets are rebuilt after the first step, which is another step
        # when a training is resumed. The sums over three or more workers would differ in rounding.
        find_unused_parameters=device == "cpu",
    )


def gradient_sync(model: nn.Module, *, enabled: bool) -> AbstractContextManager[None]:
    """Return a context in which backward passes average gradients over the workers, or not."""
    if enabled or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()


class SynchronisedStopRequest(StopRequest):
    """A stop request on which all workers act after the same step.

    They exchange received signals while a step is computed, so that no worker waits. All stop one
    step after the one in which the first of them was asked.
    """

    def __init__(self, group: distributed.ProcessGroup) -> None:
        """Prepare the exchange.

        Args:
            group: The workers, able to exchange tensors on the CPU.
        """
        super().__init__()
        self._group = group
        self._exchange: tuple[distributed.Work, Tensor] | None = None

    def poll(self) -> signal.Signals | None:
        """Return the signal that one of the workers had received a step ago, or None."""
        number = 0
        if self._exchange is not None:
            work, agreed = self._exchange
            work.wait()
            number = int(agreed.item())
        own = torch.tensor(int(self.received or 0))
        work = distributed.all_reduce(own, distributed.ReduceOp.MAX, self._group, async_op=True)
        self._exchange = (work, own)
        return signal.Signals(number) if number else None

    def missed(self) -> None:
        """Return None: the driver, which receives the signals, acts on one after the last step."""


@dataclass(frozen=True)
class RankZeroCheckpoints(Checkpoints):
    """Checkpoints of a distributed training, which the first worker reads and writes.

    So all workers resume from the same step, however late a shared disk shows a file to another
    machine.
    """

    def save(self, checkpoint: Checkpoint) -> None:
        """Save a checkpoint on the first worker; see `Checkpoints.save`."""
        if distributed.get_rank() == 0:
            super().save(checkpoint)

    def latest(self) -> Checkpoint | None:
        """Return the checkpoint that the first worker finds, on every worker."""
        found = [super().latest() if distributed.get_rank() == 0 else None]
        distributed.broadcast_object_list(found)
        return found[0]
