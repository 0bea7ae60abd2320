"""The training function of a Ray Train worker, which runs in a process of its own."""

from __future__ import annotations

import logging
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import ray
import ray.train
import ray.train.torch
import torch
from torch import distributed

from selfie_pipeline.config import ComputeConfig, UserError
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.cuda import use_gpu
from selfie_pipeline.training.data.batches import Batches
from selfie_pipeline.training.device import Device, find_device
from selfie_pipeline.training.distributed.batch_norm import synchronise_batch_norm
from selfie_pipeline.training.distributed.process_group import (
    RankZeroCheckpoints,
    SynchronisedStopRequest,
)
from selfie_pipeline.training.loop import fit
from selfie_pipeline.training.signals import TrainingInterrupted
from selfie_pipeline.training.state import HistoryRow, NonFiniteLossError
from selfie_pipeline.training.tasks import Task

_REPORT_INTERVAL_S = 0.5
_SHARED_FILE_TIMEOUT_S = 30
"""Time until a shared disk shows on one machine a file that another has written."""


@dataclass(frozen=True)
class TrainingSpec:
    """A training, as the driver passes it to the workers.

    The first four attributes are arguments of `fit`. Every worker should find on its machine the
    device, and the token: a file that the driver has left beside the checkpoints.
    """

    task: Task
    batches: Batches
    checkpoints: Checkpoints
    title: str
    compute: ComputeConfig
    device: Device
    token: Path


def train_loop_per_worker(config: dict[str, Any]) -> None:
    """Train, resuming from the latest checkpoint.

    Errors for the user and interruptions are reported to the status actor and not raised, except
    where other workers wait for this one: Ray Train would otherwise try again, in vain.

    Args:
        config: `spec`: reference of the `TrainingSpec`; `status`: the status actor.
    """
    status = config["status"]
    first = ray.train.get_context().get_world_rank() == 0
    if ray.get(status.has_ended.remote()):
        return
    if first:
        ray.get(status.start.remote())
    spec: TrainingSpec = ray.get(config["spec"])
    try:
        with _forward_log(status, first):
            _train(spec, status, first)
    except (TrainingInterrupted, NonFiniteLossError) as error:  # of all, after the same step
        if first:  # it alone has written a checkpoint by now
            ray.get(status.end.remote(str(error), isinstance(error, TrainingInterrupted)))
    except UserError as error:
        ray.get(status.end.remote(str(error), interrupted=False))
        raise  # the others wait for this worker


def _train(spec: TrainingSpec, status: Any, first: bool) -> None:
    torch.set_num_threads(spec.compute.cpus_per_worker)
    if spec.device.type == "cuda":
        use_gpu(ray.train.torch.get_device())
    _check_machine(spec)
    context = ray.train.get_context()
    workers = context.get_world_size()
    group = distributed.new_group(backend="gloo")
    assert isinstance(group, distributed.ProcessGroup)  # noqa: S101  # every worker is in it
    if workers > 1 and spec.compute.batch_norm == "synchronised":
        synchronise_batch_norm(spec.task.network)
    stop = SynchronisedStopRequest(group)
    fit(
        spec.task,
        replace(spec.batches, worker=context.get_world_rank(), workers=workers),
        spec.device,
        RankZeroCheckpoints(**vars(spec.checkpoints)),
        spec.title,
        stop_request=stop,
        progress=_StatusReporter(status, first, stop, spec.task.recipe.steps),
    )


def _check_machine(spec: TrainingSpec) -> None:
    """Check that this machine is as the driver expects it.

    Raises:
        UserError: It has another processor or GPU than the others, or does not see their files.
    """
    here = socket.gethostname()
    device = find_device(spec.compute)
    if device != spec.device:
        raise UserError(
            f"the machine {here} computes on {device.type} in {device.precision}, another on "
            f"{spec.device.type} in {spec.device.precision}; set compute.accelerator and "
            "compute.precision to values that all machines support"
        )
    deadline = time.monotonic() + _SHARED_FILE_TIMEOUT_S
    while not spec.token.exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"the machine {here} does not see {spec.token}; the project's folder must be on "
                "storage that all machines share, at the same path"
            )
        time.sleep(0.5)


@dataclass
class _StatusReporter:
    """Reports the first worker's progress to the status actor, and receives stop requests."""

    status: Any
    first: bool
    stop: SynchronisedStopRequest
    last_step: int
    answer: ray.ObjectRef[int] | None = None
    reported_at: float = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.answer is not None:
            ray.get(self.answer)

    def update(self, step: int, latest: HistoryRow | None) -> None:
        """Report at intervals and after the last step, without waiting for the answer."""
        if not self.first:
            return
        if self.answer is not None and ray.wait([self.answer], timeout=0)[0]:
            if number := ray.get(self.answer):
                self.stop.received = signal.Signals(number)
            self.answer = None
        due = time.monotonic() - self.reported_at >= _REPORT_INTERVAL_S
        if step == self.last_step or (due and self.answer is None):
            self.answer = self.status.report.remote(step, None if latest is None else (*latest,))
            self.reported_at = time.monotonic()


class _StatusLogHandler(logging.Handler):
    def __init__(self, status: Any) -> None:
        super().__init__(logging.INFO)
        self._status = status

    def emit(self, record: logging.LogRecord) -> None:
        # Waits, so that the message is not lost if this process is killed a moment later.
        ray.get(self._status.log.remote(record.levelno, record.getMessage()))


@contextmanager
def _forward_log(status: Any, first: bool) -> Iterator[None]:
    """Forward the first worker's log records of this project to the driver."""
    logger = logging.getLogger("selfie_pipeline")
    handler = _StatusLogHandler(status)
    if first:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
