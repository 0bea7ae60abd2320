"""The training loop."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Protocol, Self

from torch import nn

from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.batches import Batch, Batches
from selfie_pipeline.training.data.prefetch import prefetch
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.distributed.process_group import (
    data_parallel,
    gradient_sync,
    world_size,
)
from selfie_pipeline.training.memory import out_of_memory_error
from selfie_pipeline.training.optimizer import clip_gradients, set_learning_rate
from selfie_pipeline.training.progress import ProgressBar
from selfie_pipeline.training.signals import StopRequest, training_interrupted
from selfie_pipeline.training.state import HistoryRow, TrainingResult, TrainingState
from selfie_pipeline.training.tasks import Task

_LOG = logging.getLogger(__name__)

StepCallback = Callable[[TrainingState], None]
"""Called after every step; it may end the training by raising."""


Fit = Callable[[Task, Batches, Device, Checkpoints, str, Sequence[StepCallback]], TrainingResult]
"""Trains a task's network: `fit` in this process, or an engine's on others."""


class ProgressReporter(Protocol):
    """Reports the progress of a training, from before its first step until after its last."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def update(self, step: int, latest: HistoryRow | None) -> None:
        """Report the steps completed and the latest row of the history, after every step."""


def fit(
    task: Task,
    batches: Batches,
    device: Device,
    checkpoints: Checkpoints,
    title: str,
    callbacks: Sequence[StepCallback] = (),
    *,
    stop_request: StopRequest | None = None,
    progress: ProgressReporter | None = None,
) -> TrainingResult:
    """Train a task's network on all batches, resuming from the latest checkpoint.

    Args:
        task: The network, freshly initialised or pretrained, and its loss.
        batches: The batches of the training, from its first step.
        device: The device and the precision.
        checkpoints: The training's checkpoints.
        title: The training's name in messages.
        callbacks: Called after every step.
        stop_request: Listens for signals; by default for those of this process.
        progress: Reports the progress; by default in the terminal and the log.

    Returns:
        The weights after the last step, and the history.

    Raises:
        TrainingInterrupted: A signal asked it to stop; the same call resumes it.
        NonFiniteLossError: The loss is not finite.
        UserError: A batch does not fit in memory, or a checkpoint can't be written.
    """
    recipe = task.recipe
    # With CUDA graphs the next forward pass reuses a gradient's memory: it can't be accumulated.
    cuda_graphs = recipe.accumulate == 1 and world_size() == 1
    device.prepare(task.to(device.type).train().network, cuda_graphs=cuda_graphs)
    state = TrainingState(task)
    if (checkpoint := checkpoints.latest()) is not None:
        state.restore(checkpoint)
        _LOG.info("%s: resumes after step %d of %d", title, state.step, recipe.steps)
    model = data_parallel(task, device.type)
    micro_batches = prefetch(replace(batches, first_step=state.step), device.type)
    with (
        closing(micro_batches),
        stop_request or StopRequest() as stop,
        progress or ProgressBar(title, recipe, state.step) as reporter,
        out_of_memory_error(
            f"{title}: out of memory with {batches.micro_batch_size} images at once",
            "split the batch into more parts (accumulate), or reduce batch_size, width or "
            "image_size",
        ),
    ):
        while state.step < recipe.steps:
            compute_step(model, micro_batches, state, device)
            _end_step(state, checkpoints, reporter, stop.poll, title, callbacks)
    if received := stop.missed():  # while the last checkpoint was written
        raise training_interrupted(title, received, "its last step", checkpoints.resume)
    return state.result()


def compute_step(
    model: nn.Module, micro_batches: Iterator[Batch], state: TrainingState, device: Device
) -> None:
    """Compute the forward and backward passes of a step, and update the weights.

    Nothing in it waits for a GPU, so the host stays ahead of it.

    Args:
        model: The task, possibly one of several workers'.
        micro_batches: The next of them are those of this step, on the device.
        state: The state before the step; its weights are the model's.
        device: The device and the precision.
    """
    recipe = state.recipe
    set_learning_rate(state.optimizer, state.step, recipe)
    for index in range(1, recipe.accumulate + 1):
        batch = next(micro_batches)
        # Workers average their gradients once a step, in the last backward pass.
        with gradient_sync(model, enabled=index == recipe.accumulate):
            with device.autocast():
                loss, accuracy = model(batch)  # scalars, means over the micro-batch
            (loss / recipe.accumulate).backward()  # the gradients add up to the batch's
        state.record(loss, accuracy, batch.samples)
    clip_gradients(state.network, recipe)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)  # frees their memory at once


def _end_step(
    state: TrainingState,
    checkpoints: Checkpoints,
    reporter: ProgressReporter,
    poll: Callable[[], signal.Signals | None],
    title: str,
    callbacks: Sequence[StepCallback],
) -> None:
    """Record a step, report it, and save a checkpoint if one is due or a signal was received."""
    state.end_step()
    when = f"step {state.step} of {state.recipe.steps}"
    try:
        for callback in callbacks:  # before the checkpoint, which holds what they measure
            callback(state)
    except Exception:
        if received := poll():  # a signal takes precedence, such as over a pruned trial
            raise training_interrupted(title, received, when, checkpoints.resume) from None
        raise
    reporter.update(state.step, state.history[-1] if state.history else None)
    received = poll()
    if received or state.step % checkpoints.every == 0 or state.step == state.recipe.steps:
        checkpoints.save(state.checkpoint())
    if received:
        raise training_interrupted(title, received, when, checkpoints.resume)
