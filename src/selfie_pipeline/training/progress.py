"""How far a training is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import lightning.pytorch as pl
from tqdm import tqdm

from selfie_pipeline.training.tasks import Task

_LOG = logging.getLogger(__name__)
_SECONDS_BEFORE_BAR = 5
_SECONDS_BETWEEN_LINES = 30


class Progress(pl.Callback):
    """Steps done, time left, images a second and the newest loss and accuracy."""

    def __init__(self, title: str, first_step: int) -> None:
        self.title = title
        self.first_step = first_step
        self.started = self.last_line = time.monotonic()
        self.bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Open the bar; it shows itself only when the training takes a while."""
        self.started = self.last_line = time.monotonic()
        self.bar = tqdm(
            desc=self.title,
            total=_task(pl_module).recipe.steps,
            initial=self.first_step,
            unit="step",
            delay=_SECONDS_BEFORE_BAR,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,  # noqa: ARG002
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move on after the last part of each batch."""
        task = _task(pl_module)
        if (batch_idx + 1) % task.recipe.accumulate or self.bar is None:
            return
        done = batch.step + 1
        if self.bar.disable:
            now = time.monotonic()
            if now - self.last_line >= _SECONDS_BETWEEN_LINES:
                self.last_line = now
                _LOG.info(
                    "%s: step %d of %d, %s",
                    self.title,
                    done,
                    task.recipe.steps,
                    self._state(task, done),
                )
        else:
            self.bar.set_postfix_str(self._state(task, done), refresh=False)
            self.bar.update(done - self.bar.n)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Close the bar and leave one line."""
        task = _task(pl_module)
        if self.bar is not None:
            self.bar.close()
        _LOG.info(
            "%s: %d steps done, %s",
            self.title,
            task.recipe.steps,
            self._state(task, task.recipe.steps),
        )

    def _state(self, task: Task, done: int) -> str:
        seconds = time.monotonic() - self.started
        rate = (done - self.first_step) * task.recipe.batch_size / seconds
        left = (task.recipe.steps - done) * task.recipe.batch_size / rate
        parts = [f"{rate:,.0f} images/s"]
        if task.history:
            newest = task.history[-1]
            parts.append(f"loss {newest.loss:.3f}")
            parts.append(f"accuracy {newest.accuracy:.3f}")
            parts.append(f"learning rate {newest.learning_rate:.2g}")
        if done < task.recipe.steps:
            parts.append(f"{tqdm.format_interval(left)} left")
        return ", ".join(parts)


def _task(module: pl.LightningModule) -> Task:
    if not isinstance(module, Task):
        raise TypeError(f"{type(module).__name__} is not one of this project's trainings")
    return module
