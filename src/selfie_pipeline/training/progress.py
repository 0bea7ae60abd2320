"""How far a training is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Self

from tqdm import tqdm

from selfie_pipeline.config import TrainingConfig
from selfie_pipeline.training.tasks import Task

_LOG = logging.getLogger(__name__)
_SECONDS_BEFORE_BAR = 5
_SECONDS_BEFORE_LINE = 5
_SECONDS_BETWEEN_LINES = 30


class Progress:
    """Steps done, time left, images a second and the newest row of the history."""

    def __init__(self, title: str, recipe: TrainingConfig, first_step: int) -> None:
        self.title = title
        self.recipe = recipe
        self.first_step = first_step
        self.started = time.monotonic()
        self.next_line = self.started + _SECONDS_BEFORE_LINE  # the estimate, soon
        self.bar: tqdm[Any] = tqdm(
            desc=title,
            total=recipe.steps,
            initial=first_step,
            unit="step",
            delay=_SECONDS_BEFORE_BAR,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, task: Task, done: int) -> None:
        """Move on after a step."""
        now = time.monotonic()
        if not self.bar.disable:
            self.bar.set_postfix_str(self._state(task, done), refresh=False)
            self.bar.update(done - self.bar.n)
        elif now >= self.next_line and done < self.recipe.steps:
            self.next_line = now + _SECONDS_BETWEEN_LINES
            state = self._state(task, done)
            _LOG.info("%s: step %d of %d, %s", self.title, done, self.recipe.steps, state)
        if done == self.recipe.steps:
            self.bar.close()
            _LOG.info("%s: %d steps done, %s", self.title, done, self._state(task, done))

    def _state(self, task: Task, done: int) -> str:
        seconds = time.monotonic() - self.started
        rate = (done - self.first_step) * self.recipe.batch_size / seconds
        parts = [f"{rate:,.0f} images/s"]
        if task.history:
            newest = task.history[-1]
            parts.append(f"loss {newest.loss:.3f}, accuracy {newest.accuracy:.3f}")
            parts.append(f"learning rate {newest.learning_rate:.2g}")
        left = (self.recipe.steps - done) * self.recipe.batch_size / rate
        if self.bar.disable and left:
            parts.append(f"{tqdm.format_interval(left)} left")
        return ", ".join(parts)
