"""Training progress: a bar on a terminal, log lines at intervals elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from multiprocessing import parent_process
from typing import Any, Self

from tqdm import tqdm

from selfie_pipeline.config import TrainingConfig
from selfie_pipeline.training.state import HistoryRow

_LOG = logging.getLogger(__name__)
_BAR_DELAY_S = 5
_FIRST_LINE_S = 5
_LINE_INTERVAL_S = 30


class ProgressBar:
    """Steps completed, time left, images a second and the latest row of the history."""

    def __init__(self, title: str, recipe: TrainingConfig, first_step: int) -> None:
        self.title = title
        self.recipe = recipe
        self.first_step = first_step
        self.started = time.monotonic()
        self.next_line = self.started + _FIRST_LINE_S  # an early estimate
        self.bar: tqdm[Any] = tqdm(
            desc=title,
            total=recipe.steps,
            initial=first_step,
            unit="step",
            delay=_BAR_DELAY_S,
            # The terminal belongs to the process that started this one.
            disable=not sys.stderr.isatty() or parent_process() is not None,
            dynamic_ncols=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, step: int, latest: HistoryRow | None) -> None:
        """Advance to the steps completed."""
        now = time.monotonic()
        if not self.bar.disable:
            self.bar.set_postfix_str(self._describe(step, latest), refresh=False)
            self.bar.update(step - self.bar.n)
        elif now >= self.next_line and step < self.recipe.steps:
            self.next_line = now + _LINE_INTERVAL_S
            description = self._describe(step, latest)
            _LOG.info("%s: step %d of %d, %s", self.title, step, self.recipe.steps, description)
        if step == self.recipe.steps:
            self.bar.close()
            _LOG.info("%s: %d steps done, %s", self.title, step, self._describe(step, latest))

    def _describe(self, step: int, latest: HistoryRow | None) -> str:
        seconds = time.monotonic() - self.started
        # Workers of a cluster may resume from an earlier step than the first one here.
        steps_a_second = max(0, step - self.first_step) / seconds
        parts = [f"{steps_a_second * self.recipe.batch_size:,.0f} images/s"]
        if latest is not None:
            parts.append(f"loss {latest.loss:.3f}, accuracy {latest.accuracy:.3f}")
            parts.append(f"learning rate {latest.learning_rate:.2g}")
        if self.bar.disable and step < self.recipe.steps and steps_a_second:
            left_s = (self.recipe.steps - step) / steps_a_second
            parts.append(f"{tqdm.format_interval(left_s)} left")
        return ", ".join(parts)
