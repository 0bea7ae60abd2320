"""The loop around the steps: Lightning's, with our precision, checkpoints and progress."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import lightning.pytorch as pl
from torch import Tensor

from selfie_pipeline.config import TrainingConfig
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.batches import Batches
from selfie_pipeline.training.data.prefetch import feed
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.memory import out_of_memory_error
from selfie_pipeline.training.progress import Progress
from selfie_pipeline.training.signals import StopRequest, TrainingInterrupted
from selfie_pipeline.training.tasks import HistoryRow, NonFiniteLossError, Task

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """What a training leaves.

    Attributes:
        tensors: The network's weights and statistics, by name, on the CPU.
        history: One row every `log_every` steps.
    """

    tensors: dict[str, Tensor]
    history: list[HistoryRow]


StepCallback = Callable[[Task, int], None]
"""Called with the task and the steps done after every step; it may end the training by raising."""


class Fit(Protocol):
    """Trains a task's network: `fit` in this process, or an engine's on others."""

    def __call__(
        self,
        task: Task,
        batches: Batches,
        device: Device,
        checkpoints: Checkpoints,
        title: str,
        watch: StepCallback | None = None,
    ) -> TrainingResult:
        """As `fit`."""


class Shows(Protocol):
    """Is told how far a training is, as `Progress`."""

    def __enter__(self) -> Self:
        """Before the first step."""

    def __exit__(self, *_: object) -> None:
        """After the last."""

    def update(self, task: Task, done: int) -> None:
        """After every step."""


@dataclass(frozen=True)
class Surroundings:
    """What a training goes on in.

    Attributes:
        stop: Where it learns that it is asked to stop.
        progress: Who is told how far it is.
        trainer: Options of Lightning's trainer: how many devices, and how they work together.
    """

    stop: Callable[[], StopRequest] = StopRequest
    progress: Callable[[str, TrainingConfig, int], Shows] = Progress
    trainer: Mapping[str, Any] = field(default_factory=lambda: {"devices": 1})


def fit(
    task: Task,
    batches: Batches,
    device: Device,
    checkpoints: Checkpoints,
    title: str,
    watch: StepCallback | None = None,
    surroundings: Surroundings = Surroundings(),  # frozen
) -> TrainingResult:
    """Train a task's network on all the batches, going on from the newest checkpoint.

    Args:
        task: What a step computes, and its fresh or handed-over network.
        batches: All of the training, from its first step.
        device: Where and in which precision.
        checkpoints: Where the training's state is kept.
        title: What progress calls it.
        watch: Looks at the training as it goes, such as to give it up early.
        surroundings: Another than this process alone.

    Returns:
        The weights after the last step, and the history.

    Raises:
        TrainingInterrupted: It was asked to stop; it goes on from there when it is run again.
        UserError: The loss is not finite, a batch does not fit in memory, or a checkpoint can't be
            written.
    """
    found = checkpoints.newest()
    if found is not None:
        task.restore(found)
        batches = replace(batches, first_step=found.step)
        _LOG.info("%s: goes on after step %d of %d", title, found.step, task.recipe.steps)
    shown = surroundings.progress(title, task.recipe, task.steps_done)
    with surroundings.stop() as stop, shown as progress:

        def keep_state(task: Task, done: int) -> None:
            received = stop.ask()
            due = done % checkpoints.every == 0 or done == task.recipe.steps
            if due or received:
                checkpoints.save(task.checkpoint())
            if received:
                raise TrainingInterrupted(
                    f"{title} was stopped by {received.name} after step {done} of "
                    f"{task.recipe.steps}; run the same command to go on from there"
                )

        if task.steps_done < task.recipe.steps:
            actions = [progress.update, keep_state, *([watch] if watch else [])]
            callbacks = [OwnSignals(stop), AfterStep(*actions)]
            trainer = _trainer(task, device, callbacks, surroundings.trainer)
            device.prepare(task.network)
            with warnings.catch_warnings():
                # The batches read ahead in a thread of their own; worker processes don't help.
                warnings.filterwarnings("ignore", message=".*does not have many workers.*")
                # Lightning 2.6 walks trees in a way that torch 2.15 has deprecated.
                warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
                # torch's compiler looks whether what it is given has a gradient.
                warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is")
                at_once = task.recipe.batch_size // (task.recipe.accumulate * batches.workers)
                try:
                    with out_of_memory_error(title, at_once):
                        trainer.fit(task, train_dataloaders=feed(batches, device))
                except NonFiniteLossError as error:
                    checkpoints.note("not-finite", vars(error))
                    raise
    return trained(task)


def trained(task: Task) -> TrainingResult:
    """What a task has come to."""
    tensors = {name: tensor.detach().cpu() for name, tensor in task.network.state_dict().items()}
    return TrainingResult(tensors, task.history)


def _trainer(
    task: Task, device: Device, callbacks: list[pl.Callback], options: Mapping[str, Any]
) -> pl.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    return pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        **options,
        precision=device.precision,  # type: ignore[arg-type]  # a literal there
        max_epochs=1,  # of the batches, which know the data's own epochs
        accumulate_grad_batches=task.recipe.accumulate,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


class OwnSignals(pl.Callback):
    """Keeps SIGTERM from Lightning, which would leave in the middle of a step, with status 0."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop

    def on_train_start(
        self,
        trainer: pl.Trainer,  # noqa: ARG002
        pl_module: pl.LightningModule,  # noqa: ARG002
    ) -> None:
        """As Lightning calls it, after it has set its own handler."""
        self.stop.listen()


class AfterStep(pl.Callback):
    """Calls functions with the task and the steps done, after the last part of each batch."""

    def __init__(self, *actions: StepCallback) -> None:
        self.actions = actions

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,  # noqa: ARG002
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,
        batch_idx: int,
    ) -> None:
        """As Lightning calls it."""
        if not isinstance(pl_module, Task):
            raise TypeError(f"{type(pl_module).__name__} is not one of this project's trainings")
        if (batch_idx + 1) % pl_module.recipe.accumulate == 0:
            pl_module.end_step(batch)
            for action in self.actions:
                action(pl_module, pl_module.steps_done)
