"""One training over the workers of a Ray cluster, as the driver sees it.

The workers keep the project's own checkpoints. So what is left of a training, whoever died, is
what is left of one in this process; and the driver has the result from the last checkpoint.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from selfie_pipeline.config import ComputeConfig, UserError
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.batches import Batches
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.distributed.cluster import (
    Need,
    ask_a_place,
    connected,
    describe,
    places,
    wait_for_places,
    workers_need,
)
from selfie_pipeline.training.distributed.status import Board, News
from selfie_pipeline.training.distributed.worker import Order, work
from selfie_pipeline.training.loop import StepCallback, TrainingResult, trained
from selfie_pipeline.training.progress import Progress
from selfie_pipeline.training.signals import StopRequest, TrainingInterrupted
from selfie_pipeline.training.tasks import HistoryRow, Task

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_BEFORE_WORRY = 30
"""Without news, after which it is looked whether the cluster still has room for the workers."""
_SECONDS_OF_PATIENCE = 600
"""That a cluster which has become too small is waited for."""
_SECONDS_TO_END = 10
"""That workers who have told their end have to be gone."""
_SECONDS_TO_STOP = 60
"""That workers have to end their step and write a checkpoint."""


@contextmanager
def open_workers(compute: ComputeConfig) -> Iterator[Workers]:
    """The workers that the configuration asks for.

    Raises:
        UserError: There is no cluster, or it is too small, or its machines can't do what is asked.
    """
    with connected():
        need = workers_need(compute)
        wait_for_places(need)
        device, processor = ask_a_place(compute, need)
        yield Workers(compute, need, device, processor)


@dataclass(frozen=True)
class Workers:
    """The workers of a connected cluster.

    Attributes:
        compute: Parameters.
        need: What they ask of the cluster.
        device: What each computes on.
        processor: What that is called.
    """

    compute: ComputeConfig
    need: Need
    device: Device
    processor: str

    @property
    def name(self) -> str:
        """The processors, and how the workers' BatchNorm statistics are taken."""
        if self.need.count == 1:
            return self.processor
        norm = self.compute.batch_norm
        return f"{self.need.count} × {self.processor}, BatchNorm {norm}"

    @property
    def identity(self) -> dict[str, str]:
        """What a training's numbers depend on; synchronised, their number changes rounding only."""
        identity = {"precision": self.device.precision}
        if self.need.count > 1 and self.compute.batch_norm == "local":
            identity["batch_norm"] = f"local to {self.need.count} workers"
        return identity

    def fit(
        self,
        task: Task,
        batches: Batches,
        device: Device,  # noqa: ARG002  # this process's
        checkpoints: Checkpoints,
        title: str,
        watch: StepCallback | None = None,
    ) -> TrainingResult:
        """As `loop.fit`, by the workers; what watches is called after the last step alone.

        Raises:
            TrainingInterrupted: As `loop.fit`.
            UserError: As `loop.fit`; or the workers died more often than `max_failures`, or their
                machines left and no others came, or did not see the project's folder.
        """
        found = checkpoints.newest()  # clears them, if it is not to be resumed
        checkpoints = replace(checkpoints, resume="auto")
        if found is None or found.step < task.recipe.steps:
            self._train(task, batches, checkpoints, title, found.step if found else 0)
            found = checkpoints.newest()
        if found is None or found.step < task.recipe.steps:
            raise UserError(
                f"{title} is done, but its last checkpoint is not in {checkpoints.folder}; the "
                "project's folder must lie on storage that all machines share, at the same path"
            )
        task.restore(found)
        if watch is not None:
            watch(task, found.step)
        return trained(task)

    def _train(
        self, task: Task, batches: Batches, checkpoints: Checkpoints, title: str, first: int
    ) -> None:
        """Have the workers train up to the last checkpoint."""
        own = checkpoints.folder / f"ray-{uuid.uuid4().hex[:12]}"
        own.mkdir(parents=True)
        token = own / "token"
        token.touch()
        order = Order(task, batches, checkpoints, title, self.compute, self.device, token)
        here = ray.get_runtime_context().get_node_id()
        place = NodeAffinitySchedulingStrategy(node_id=here, soft=False)
        board = ray.remote(Board).options(num_cpus=0, scheduling_strategy=place).remote()
        trainer = TorchTrainer(
            work,
            train_loop_config={"order": ray.put(order), "board": board},
            scaling_config=ScalingConfig(
                num_workers=self.need.count,
                use_gpu=self.need.gpus > 0,
                resources_per_worker={"CPU": self.need.cpus},
            ),
            run_config=RunConfig(
                name="training",
                storage_path=str(own),
                failure_config=FailureConfig(max_failures=self.compute.max_failures),
            ),
        )
        try:
            _Watched(trainer, board, self.need, self.compute.max_failures, title).wait(task, first)
        finally:
            shutil.rmtree(own, ignore_errors=True)


@dataclass
class _Watched:
    """A training that is under way: its news are shown, and its end waited for."""

    trainer: TorchTrainer
    board: Any
    need: Need
    max_failures: int
    title: str
    starts: int = 0
    last_news: float = field(default_factory=time.monotonic)
    last_look: float = 0.0
    stopped_at: float | None = None
    error: Exception | None = None

    def wait(self, task: Task, first: int) -> None:
        """Return when the last checkpoint is written.

        Raises:
            TrainingInterrupted: It was asked to stop, and has.
            UserError: It has ended otherwise.
        """
        # In a thread, so that Ray's own handling of Ctrl-C, which leaves no checkpoint, stays out.
        thread = threading.Thread(target=self._fit, daemon=True)
        thread.start()
        done = first
        with StopRequest() as stop, Progress(self.title, task.recipe, first) as progress:
            while thread.is_alive():
                thread.join(_SECONDS_BETWEEN_LOOKS)
                news: News = ray.get(self.board.read.remote())
                self._tell(news)
                if news.done != done:
                    done, self.last_news = news.done, time.monotonic()
                    if news.newest is not None:
                        task.history = [HistoryRow(*news.newest)]  # what progress shows
                    progress.update(task, done)
                if news.end is not None:
                    thread.join(_SECONDS_TO_END)
                    raise (TrainingInterrupted if news.end.interrupted else UserError)(
                        news.end.message
                    )
                if stop.received:
                    self._stop(stop)
                else:
                    self._look_after_the_cluster()
        if isinstance(self.error, WorkerGroupError):
            first_of_them = next(iter(self.error.worker_failures.values()))
            reason = _last_line(first_of_them)
            raise UserError(
                f"{self.title}: the workers died more than compute.max_failures = "
                f"{self.max_failures} times, at last after step {done}: {reason}; the same command "
                "goes on from the last checkpoint"
            ) from self.error
        if self.error is not None:
            raise self.error

    def _fit(self) -> None:
        try:
            self.trainer.fit()
        except Exception as error:  # told by the other thread
            self.error = error

    def _tell(self, news: News) -> None:
        """Pass the first worker's messages on, and say that one had to begin again."""
        for level, text in news.messages:
            _LOG.log(level, "%s", text)
        if news.starts > self.starts:
            if self.starts:
                _LOG.warning(
                    "%s: a worker died; all go on from the last checkpoint (%d of at most %d "
                    "times)",
                    self.title,
                    news.starts - 1,
                    self.max_failures,
                )
            self.starts, self.last_news = news.starts, time.monotonic()

    def _stop(self, stop: StopRequest) -> None:
        """Have the workers stop; where none is left to do so, leave the last checkpoint as it is.

        Raises:
            TrainingInterrupted: Nobody has written a checkpoint.
        """
        assert stop.received is not None  # noqa: S101
        if self.stopped_at is None:
            self.stopped_at = time.monotonic()
            ray.get(self.board.stop.remote(int(stop.received)))
        elif time.monotonic() - self.stopped_at > _SECONDS_TO_STOP:
            raise TrainingInterrupted(
                f"{self.title} was stopped by {stop.received.name}; the workers did not answer, so "
                "the same command goes on from their last checkpoint"
            )

    def _look_after_the_cluster(self) -> None:
        """Say so where it has become too small, and give up some time later.

        Raises:
            UserError: It has been too small for too long.
        """
        now = time.monotonic()
        quiet = now - self.last_news
        if quiet < _SECONDS_BEFORE_WORRY or now - self.last_look < _SECONDS_BEFORE_WORRY:
            return
        self.last_look = now
        if places(self.need) >= self.need.count:
            return
        _LOG.warning("%s: waits for machines: the cluster has %s", self.title, describe())
        if quiet > _SECONDS_OF_PATIENCE:
            raise UserError(
                f"{self.title}: machines left the Ray cluster, which has {describe()}, and no "
                f"others came for {_SECONDS_OF_PATIENCE} s; the same command goes on from the last "
                "checkpoint"
            )


def _last_line(error: Exception) -> str:
    """The reason at the bottom of Ray's message, which is a whole traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
