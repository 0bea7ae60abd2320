"""What each worker of a training does; Ray Train calls it in a process of its own."""

from __future__ import annotations

import logging
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import ray
import ray.train
import torch
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment
from torch import distributed

from selfie_pipeline.config import ComputeConfig, UserError
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.batches import Batches
from selfie_pipeline.training.device import Device, find_device
from selfie_pipeline.training.distributed.batch_norm import synchronise
from selfie_pipeline.training.distributed.process_group import (
    RankZeroCheckpoints,
    SynchronisedStopRequest,
)
from selfie_pipeline.training.distributed.status import End
from selfie_pipeline.training.loop import Surroundings, fit
from selfie_pipeline.training.signals import TrainingInterrupted
from selfie_pipeline.training.tasks import NonFiniteLossError, Task

_SECONDS_BETWEEN_REPORTS = 0.5
_SECONDS_FOR_A_FILE = 30
"""After which a shared disk shows on one machine what another has written."""


@dataclass(frozen=True)
class Order:
    """A training, as the driver hands it to the workers.

    Attributes:
        task: As `fit` takes it.
        batches: As `fit` takes them.
        checkpoints: As `fit` takes them.
        title: As `fit` takes it.
        compute: Parameters.
        device: What every worker should find on its machine.
        token: A file that the driver has left beside the checkpoints.
    """

    task: Task
    batches: Batches
    checkpoints: Checkpoints
    title: str
    compute: ComputeConfig
    device: Device
    token: Path


def work(config: dict[str, Any]) -> None:
    """Train, going on from the newest checkpoint.

    What a person can mend, and what they asked for, the board is told: to try that again would
    change nothing.

    Args:
        config: `order`: where the order lies; `board`: the actor.
    """
    board = config["board"]
    first = ray.train.get_context().get_world_rank() == 0
    goes_on = ray.get(board.start.remote()) if first else ray.get(board.read.remote()).end is None
    if not goes_on:
        return
    order: Order = ray.get(config["order"])
    try:
        with _messages_to(board, first):
            _train(order, board, first)
    except (
        TrainingInterrupted,
        NonFiniteLossError,
    ) as error:  # of all workers, after the same step
        if first:  # which by now has written what the others have not
            ray.get(board.finish.remote(End(str(error), isinstance(error, TrainingInterrupted))))
    except UserError as error:
        ray.get(board.finish.remote(End(str(error), interrupted=False)))
        raise  # the others wait for this worker


def _train(order: Order, board: Any, first: bool) -> None:
    torch.set_num_threads(order.compute.cpus_per_worker)
    _check_machine(order)
    context = ray.train.get_context()
    count = context.get_world_size()
    group = distributed.new_group(backend="gloo")
    assert isinstance(group, distributed.ProcessGroup)  # noqa: S101  # every worker is in it
    task = order.task
    if count > 1 and order.compute.batch_norm == "synchronised":
        synchronise(task.network, order.device.type)
    stop = SynchronisedStopRequest(group)
    fit(
        task,
        replace(order.batches, worker=context.get_world_rank(), workers=count),
        order.device,
        RankZeroCheckpoints(**vars(order.checkpoints)),
        order.title,
        surroundings=Surroundings(
            stop=lambda: stop,
            progress=partial(_Reports, board, first, stop),
            trainer=_trainer_options(count, order.device),
        ),
    )


def _check_machine(order: Order) -> None:
    """Check that this machine is as the driver takes it to be.

    Raises:
        UserError: It has another processor or GPU than the others, or does not see their files.
    """
    here = socket.gethostname()
    device = find_device(order.compute)
    if device != order.device:
        raise UserError(
            f"the machine {here} computes on {device.type} in {device.precision}, another on "
            f"{order.device.type} in {order.device.precision}; set compute.accelerator and "
            "compute.precision to what all have"
        )
    deadline = time.monotonic() + _SECONDS_FOR_A_FILE
    while not order.token.exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"the machine {here} does not see {order.token}; the project's folder must lie on "
                "storage that all machines share, at the same path"
            )
        time.sleep(0.5)


def _trainer_options(count: int, device: Device) -> dict[str, Any]:
    """How Lightning is to spread a training over the workers."""
    if count == 1:
        return {"devices": [torch.cuda.current_device()] if device.type == "cuda" else 1}
    strategy = RayDDPStrategy(
        broadcast_buffers=False,  # synchronised, or each worker's own; the first one's are kept
        # Otherwise the gradients' places change after the first step, which is another one when a
        # training has gone on; and with them the order that three or more workers are summed in.
        find_unused_parameters=device.type == "cpu",
    )
    environment = RayLightningEnvironment()
    return {"devices": "auto", "strategy": strategy, "plugins": [environment]}


class _Reports:
    """The progress of the first worker, told to the board, which says whether to stop."""

    def __init__(self, board: Any, first: bool, stop: SynchronisedStopRequest, *_: object) -> None:
        self._board = board
        self._first = first
        self._stop = stop
        self._answer: ray.ObjectRef[int] | None = None
        self._last = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._answer is not None:
            ray.get(self._answer)

    def update(self, task: Task, done: int) -> None:
        """Report now and then, and after the last step; nobody waits for the answer."""
        if not self._first:
            return
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            if number := ray.get(self._answer):
                self._stop.received = signal.Signals(number)
            self._answer = None
        due = time.monotonic() - self._last >= _SECONDS_BETWEEN_REPORTS
        if done == task.recipe.steps or (due and self._answer is None):
            newest = tuple(task.history[-1]) if task.history else None
            self._answer = self._board.report.remote(done, newest)
            self._last = time.monotonic()


class _ToBoard(logging.Handler):
    def __init__(self, board: Any) -> None:
        super().__init__(logging.INFO)
        self._board = board

    def emit(self, record: logging.LogRecord) -> None:
        self._board.say.remote(record.levelno, record.getMessage())


@contextmanager
def _messages_to(board: Any, first: bool) -> Iterator[None]:
    """Have the first worker's messages of this project reach the driver."""
    logger = logging.getLogger("selfie_pipeline")
    handler = _ToBoard(board)
    if first:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
