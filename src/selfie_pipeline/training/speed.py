"""The speed of this machine: real steps and scores, timed on a run's data and then thrown away."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import pandas as pd
import torch

from selfie_pipeline.config import Config
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.batches import WindowReader
from selfie_pipeline.training.device import find_device
from selfie_pipeline.training.finetuning import finetune, initialise_classifier
from selfie_pipeline.training.inference import compute_outputs
from selfie_pipeline.training.loop import fit
from selfie_pipeline.training.pretraining import pretrain
from selfie_pipeline.training.signals import StopRequest, TrainingInterrupted

_FEWEST_STEPS = 4
_SCORED_SAMPLES = 256
_ENDLESS = {"steps": 10**9}


@dataclass(frozen=True)
class Speed:
    """The time that parts of a run take, seconds.

    Attributes:
        step_s: A step of `pretrain`, and of `finetune`.
        first_s: Additional time of the first two, such as to copy all pixels to a GPU.
        score_s: An image that is classified.
        cpu_share: Share of the cores' time that this process gets beside others, at most 1; on a
            GPU, where the process waits for it, 1.
    """

    step_s: dict[str, float]
    first_s: dict[str, float]
    score_s: float
    cpu_share: float


def measure_speed(
    config: Config,
    kinds: Collection[str],
    samples: pd.DataFrame,
    images: WindowReader,
    limit_s: float,
) -> Speed:
    """Time real steps of each kind, and the scoring.

    The kinds are `pretrain`, `finetune` or both. Each is timed for `limit_s`, but for at least a
    few steps.

    Raises:
        TrainingInterrupted: A signal stopped it.
    """
    device, times, score_s = find_device(config.compute), {}, 0.0
    started, busy = time.monotonic(), time.process_time()
    if "pretrain" in kinds:
        rows = samples.loc[samples["split"] != "test", "sample"].to_numpy()
        recipe = config.pretrain.model_copy(update=_ENDLESS)
        train = partial(pretrain, config.model, recipe, images, rows, device)
        times["pretrain"] = _time_steps(train, limit_s)
    if "finetune" in kinds:
        table = samples[samples["split"] == "train"]
        labeled, labels = table["sample"].to_numpy(copy=True), table["label"].to_numpy()
        network = initialise_classifier(
            config.model, config.finetune.architecture, config.patch, int(labels.max()) + 1, seed=0
        )
        train = partial(
            finetune,
            network,
            pretrained=(),
            recipe=config.finetune.model_copy(update=_ENDLESS),
            seed=0,
            images=images,
            rows=labeled,
            labels=labels,
            device=device,
            title="finetune",
        )
        times["finetune"] = _time_steps(train, limit_s)
        scoring = time.monotonic()
        scored = compute_outputs(network, images, labeled[:_SCORED_SAMPLES], device, "classify")
        score_s = (time.monotonic() - scoring) / len(scored)
    step_s, first_s = ({kind: pair[n] for kind, pair in times.items()} for n in (0, 1))
    cpu_share = 1.0
    if device.type == "cpu":
        elapsed_s = torch.get_num_threads() * (time.monotonic() - started)
        cpu_share = min(1.0, (time.process_time() - busy) / elapsed_s)
    return Speed(step_s, first_s, score_s, cpu_share)


def _time_steps(train: Callable[..., object], limit_s: float) -> tuple[float, float]:
    """Return the time of a step, and that which the first two take in addition, in seconds."""
    watch, stop = _Stopwatch(limit_s), StopRequest()
    with TemporaryDirectory() as folder, suppress(_MeasuredError, TrainingInterrupted):
        checkpoints = Checkpoints(Path(folder, "checkpoints"), {}, every=10**9, resume="never")
        train(checkpoints=checkpoints, fit=partial(fit, progress=watch, stop_request=stop))
    if stop.received:
        raise TrainingInterrupted(
            f"stopped by {stop.received.name} while the time of a step was measured for the "
            "budget; run the same command to start again",
            stop.received,
        )
    return watch.read()


class _MeasuredError(Exception):
    """Ends a training whose steps have been timed."""


class _Stopwatch:
    """A `ProgressReporter` that reports nothing, and ends the training when it has measured."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.times: list[float] = []

    def __enter__(self) -> Self:
        self.times.append(time.monotonic())
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, step: int, _latest: object) -> None:
        self.times.append(time.monotonic())
        if step >= _FEWEST_STEPS and self.times[-1] >= self.times[2] + self.limit_s:
            raise _MeasuredError

    def read(self) -> tuple[float, float]:
        # In the second step a GPU records CUDA graphs; after it, the host is a step ahead of it.
        start, _, second, *_, last = self.times
        step_s = (last - second) / (len(self.times) - 3)
        return step_s, max(0.0, second - start - 2 * step_s)
