"""Trains over the workers of a Ray cluster, as the driver sees it.

Ray Train starts the workers, restarts them after failures and ends the training. The checkpoints
are the project's own, so a distributed training resumes like one in this process, and the driver
reads the result from the last checkpoint.
"""

from __future__ import annotations

import logging
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import ray
from ray import PlacementGroupID
from ray.exceptions import RayActorError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from selfie_pipeline.config import ComputeConfig, UserError
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.batches import Batches
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.distributed.cluster import (
    ResourceRequest,
    capacity,
    connect,
    describe_cluster,
    probe_device,
    wait_for_capacity,
    worker_request,
)
from selfie_pipeline.training.distributed.status import StatusActor, TrainingStatus
from selfie_pipeline.training.distributed.worker import TrainingSpec, train_loop_per_worker
from selfie_pipeline.training.jobs import POLL_INTERVAL_S, STOP_TIMEOUT_S
from selfie_pipeline.training.loop import StepCallback
from selfie_pipeline.training.progress import ProgressBar
from selfie_pipeline.training.signals import (
    StopRequest,
    TrainingInterrupted,
    training_interrupted,
)
from selfie_pipeline.training.state import HistoryRow, TrainingResult, TrainingState
from selfie_pipeline.training.tasks import Task

_LOG = logging.getLogger(__name__)
_STALL_CHECK_S = 30
"""Time without progress after which the cluster's capacity is checked."""
_STALL_TIMEOUT_S = 600
"""Time without progress after which a training on a cluster that is too small is given up."""
_END_TIMEOUT_S = 10
"""Time for workers to exit after an early end."""


@contextmanager
def open_workers(compute: ComputeConfig) -> Iterator[Workers]:
    """Open the workers that the configuration asks for.

    Raises:
        UserError: There is no cluster, it is too small, or its machines do not fit the request.
    """
    with connect():
        request = worker_request(compute)
        wait_for_capacity(request)
        device, processor = probe_device(compute, request)
        yield Workers(compute, request, device, processor)


@dataclass(frozen=True)
class Workers:
    """The workers of a connected cluster; `processor` is the name of the device of each."""

    compute: ComputeConfig
    request: ResourceRequest
    device: Device
    processor: str

    @property
    def name(self) -> str:
        """The processors, and the scope of the BatchNorm statistics."""
        if self.request.count == 1:
            return self.processor
        return f"{self.request.count} × {self.processor}, BatchNorm {self.compute.batch_norm}"

    @property
    def identity(self) -> dict[str, str]:
        """The properties that a training's numbers depend on, beyond rounding."""
        identity = {"precision": self.device.precision}
        if self.request.count > 1 and self.compute.batch_norm == "local":
            identity["batch_norm"] = f"local to {self.request.count} workers"
        return identity

    def fit(
        self,
        task: Task,
        batches: Batches,
        device: Device,  # noqa: ARG002  # this process's
        checkpoints: Checkpoints,
        title: str,
        callbacks: Sequence[StepCallback] = (),
    ) -> TrainingResult:
        """Train on the workers; see `loop.fit`. Callbacks are called after the last step alone.

        Raises:
            TrainingInterrupted: See `loop.fit`.
            UserError: See `loop.fit`; or the workers died more often than `max_failures`, machines
                left and no others joined, or a machine does not see the project's folder.
        """
        steps = task.recipe.steps
        checkpoint = checkpoints.latest()  # removes all if it is not to be resumed
        if checkpoint is None or checkpoint.step < steps:
            step = checkpoint.step if checkpoint else 0
            self._train(task, batches, checkpoints, title, step)
            checkpoints = replace(checkpoints, resume="auto")
            checkpoint = checkpoints.latest()
        if checkpoint is None or checkpoint.step < steps:
            raise UserError(
                f"{title} is done, but its last checkpoint is not in {checkpoints.folder}; the "
                "project's folder must be on storage that all machines share, at the same path"
            )
        state = TrainingState(task)
        state.restore(checkpoint)
        for callback in callbacks:
            callback(state)
        return state.result()

    def _train(
        self, task: Task, batches: Batches, checkpoints: Checkpoints, title: str, step: int
    ) -> None:
        """Run the workers from a step until the last checkpoint is written."""
        folder = checkpoints.folder / f"ray-{uuid.uuid4().hex[:12]}"
        folder.mkdir(parents=True)
        token = folder / "token"
        token.touch()
        task.cpu()  # from this process's GPU, which a worker on another machine may not have
        resumed = replace(checkpoints, resume="auto")  # also by a worker that is started again
        spec = TrainingSpec(task, batches, resumed, title, self.compute, self.device, token)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        status = ray.remote(StatusActor).options(num_cpus=0, scheduling_strategy=here).remote()
        arguments = {"spec": ray.put(spec), "status": status}

        def build_trainer(max_failures: int) -> TorchTrainer:
            return TorchTrainer(
                train_loop_per_worker,
                train_loop_config=arguments,
                scaling_config=ScalingConfig(
                    num_workers=self.request.count,
                    use_gpu=self.request.gpus > 0,
                    resources_per_worker={"CPU": self.request.cpus},
                ),
                run_config=RunConfig(
                    name="training",
                    storage_path=str(folder),
                    failure_config=FailureConfig(max_failures=max_failures),
                ),
            )

        monitor = _Monitor(
            build_trainer,
            status,
            self.request,
            self.compute.max_failures,
            title,
            checkpoints.resume,
        )
        try:
            monitor.run(task, step)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Monitor:
    """Runs Ray Train, shows the progress, and passes signals on to the workers."""

    build_trainer: Callable[[int], TorchTrainer]
    status: Any
    request: ResourceRequest
    max_failures: int
    title: str
    resume: Literal["auto", "never"]
    starts: int = 0
    progressed_at: float = field(default_factory=time.monotonic)
    checked_at: float = field(default_factory=time.monotonic)
    stopped_at: float | None = None
    error: Exception | None = None

    def run(self, task: Task, step: int) -> None:
        """Return when the last checkpoint is written.

        Raises:
            TrainingInterrupted: The user stopped the training.
            UserError: It failed.
        """
        # On a thread, because Ray's own handling of Ctrl-C would leave no checkpoint.
        thread = threading.Thread(target=self._fit, daemon=True)
        thread.start()
        with StopRequest() as stop, ProgressBar(self.title, task.recipe, step) as progress:
            has_ended = False
            while not has_ended:
                thread.join(POLL_INTERVAL_S)
                has_ended = not thread.is_alive()  # before the last read of the status
                status: TrainingStatus = ray.get(self.status.read.remote())
                self._log(status)
                if status.step not in {0, step}:
                    step, self.progressed_at = status.step, time.monotonic()
                    progress.update(step, HistoryRow(*status.latest) if status.latest else None)
                if status.end is not None:
                    thread.join(_END_TIMEOUT_S)
                    if status.interrupted:
                        raise TrainingInterrupted(status.end, stop.received or signal.SIGTERM)
                    raise UserError(status.end)
                if stop.received:
                    self._stop_workers(stop.received)
                else:
                    self._check_capacity()
        if reason := _worker_death_reason(self.error):
            raise UserError(
                f"{self.title}: the workers died more than compute.max_failures = "
                f"{self.max_failures} times, the last time after step {step}: {reason}; the same "
                "command (without resume=never) resumes from the last checkpoint"
            ) from self.error
        if self.error is not None:
            raise self.error
        if stop.received:  # too late for the workers
            raise training_interrupted(self.title, stop.received, "its last step", self.resume)

    def _fit(self) -> None:
        """Train; again if a worker died between its start and that of the training.

        After such a death Ray Train gives up, and leaves the workers' resources reserved.
        """
        before = _placement_groups()
        failures = 0
        while failures <= self.max_failures:
            self.error = None
            try:
                self.build_trainer(self.max_failures - failures).fit()
            except Exception as error:  # raised by the main thread
                self.error = error
            if not (isinstance(self.error, ControllerError) and _worker_death_reason(self.error)):
                return
            for group in _placement_groups() - before:
                remove_placement_group(PlacementGroup(group))
            failures = max(failures + 1, self.starts)  # a training that started died since

    def _log(self, status: TrainingStatus) -> None:
        """Log the first worker's messages, and restarts."""
        for level, text in status.messages:
            _LOG.log(level, "%s", text)
        if status.starts > self.starts:
            if self.starts:
                _LOG.warning(
                    "%s: a worker died; all resume from the last checkpoint (restart %d of at "
                    "most %d)",
                    self.title,
                    status.starts - 1,
                    self.max_failures,
                )
            self.starts, self.progressed_at = status.starts, time.monotonic()

    def _stop_workers(self, received: signal.Signals) -> None:
        """Ask the workers to stop, and give up waiting after some time.

        Raises:
            TrainingInterrupted: The workers did not answer.
        """
        if self.stopped_at is None:
            self.stopped_at = time.monotonic()
            ray.get(self.status.request_stop.remote(int(received)))
        elif time.monotonic() - self.stopped_at > STOP_TIMEOUT_S:
            raise TrainingInterrupted(
                f"{self.title} was stopped by {received.name}; the workers did not answer, so the "
                "same command (without resume=never) resumes from their last checkpoint",
                received,
            )

    def _check_capacity(self) -> None:
        """Warn if the training stalls because the cluster became too small, and give up later.

        Raises:
            UserError: The cluster was too small for too long.
        """
        now = time.monotonic()
        stalled_s = now - self.progressed_at
        if stalled_s < _STALL_CHECK_S or now - self.checked_at < _STALL_CHECK_S:
            return
        self.checked_at = now
        if capacity(self.request) >= self.request.count:
            return
        _LOG.warning("%s: waits for machines: the cluster has %s", self.title, describe_cluster())
        if stalled_s > _STALL_TIMEOUT_S:
            raise UserError(
                f"{self.title}: machines left the Ray cluster, which has {describe_cluster()}, and "
                f"no others joined for {_STALL_TIMEOUT_S} s; the same command (without "
                "resume=never) resumes from the last checkpoint"
            )


def _placement_groups() -> set[PlacementGroupID]:
    """Return the placement groups of this driver that hold resources, or wait for some."""
    job = ray.get_runtime_context().get_job_id()
    return {
        PlacementGroupID(bytes.fromhex(name))
        for name, group in placement_group_table().items()
        if name.endswith(job) and group["state"] != "REMOVED"
    }


def _worker_death_reason(error: Exception | None) -> str | None:
    """Return the reason if a training failed because a worker died."""
    if isinstance(error, WorkerGroupError):
        return _last_line(next(iter(error.worker_failures.values())))
    if isinstance(error, ControllerError) and isinstance(error.controller_failure, RayActorError):
        return _last_line(error.controller_failure)
    return None


def _last_line(error: Exception) -> str:
    """Return the reason at the end of Ray's message, which is a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
