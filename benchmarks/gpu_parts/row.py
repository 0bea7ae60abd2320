"""Computes the paper's row for CIFAR-10, within a time limit: a pretraining, then both arms."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from common import ArrayGrids, drawn_digits, no_checkpoints, now
from gpu_bundle import load_cifar10
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from gpu_parts.run import Record, Run, write_table
from selfie_pipeline.config import Config
from selfie_pipeline.evaluation.statistics import summarise
from selfie_pipeline.training.data.batches import WindowReader
from selfie_pipeline.training.data.subset import labeled_subset
from selfie_pipeline.training.device import Device, find_device
from selfie_pipeline.training.finetuning import (
    finetune,
    initialise_classifier,
    load_encoder_into,
)
from selfie_pipeline.training.inference import compute_accuracy
from selfie_pipeline.training.pretraining import pretrain
from selfie_pipeline.training.state import TrainingState
from selfie_pipeline.weights import Weights

PRETRAINING_SHARE = 0.4
"""The pretraining's share of the time left."""


@dataclass(frozen=True)
class Setting:
    """Data and configuration that all trainings of the row share.

    Attributes:
        config: The recipe.
        device: The device and the precision.
        images: The training images, then the test images.
        labels: Their classes, (M,), int64.
        train_images: Number of the training images.
    """

    config: Config
    device: Device
    images: WindowReader
    labels: NDArray[np.int64]
    train_images: int


def row(run: Run) -> None:
    """Pretrain on CIFAR-10, then finetune both arms on few labels, one seed after another."""
    config = run.config()
    device = replace(find_device(config.compute), deterministic=False)
    pixels, labels = load_cifar10(run.data) if run.data else small_digits()
    train_images = len(pixels) * 5 // 6
    grids = ArrayGrids(pixels, config.patch.patch_size, train_images)
    images = WindowReader(grids, config.patch, config.augmentation)
    setting = Setting(config, device, images, labels, train_images)
    record = Record(
        run.out,
        "row",
        device=device.name,
        precision=device.precision,
        images=len(pixels),
        data="CIFAR-10" if run.data else "digits, as a stand-in",
        finetune_steps=run.size.finetune_steps,
        finetune_batch=run.size.finetune_batch,
    )
    encoder = pretrain_for(run, setting, record)
    cells: list[dict[str, Any]] = []
    slowest = 0.0  # pair of finetunings, s
    for fraction in run.size.fractions:
        for seed in range(run.size.seeds):
            if run.left_s < 1.1 * slowest + 5:
                record.add(no_time_for=f"{fraction:.0%}, seed {seed}, and what follows")
                return
            started = now()
            arms = {"supervised": None, "selfie": encoder}
            found = {
                arm: train_cell(run, setting, weights, fraction, seed)
                for arm, weights in arms.items()
            }
            # The first one includes the compilation.
            slowest = now() - started if len(cells) < 2 else max(slowest, now() - started)  # noqa: PLR2004
            cells.append({"labeled_frac": fraction, "seed": seed} | found)
            write_table(cells, run.out / "row.csv")
            record.add(**{f"{fraction:.0%}": summary(cells, fraction)})


def small_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return some of the digits, with their classes, as a substitute for CIFAR-10."""
    count = 600
    return drawn_digits()[:count], load_digits().target.astype(np.int64)[:count]


def pretrain_for(run: Run, setting: Setting, record: Record) -> Weights:
    """Pretrain for a share of the time left; a few timed steps determine the number of steps."""
    config, images, device = setting.config, setting.images, setting.device
    rows = np.arange(setting.train_images)
    started = now()
    times: list[float] = []

    def record_time(_: TrainingState) -> None:
        times.append(time.perf_counter())

    changes = {"steps": 4 * run.size.timed_steps, "log_every": 20}
    if run.rehearse:
        changes["batch_size"] = run.size.finetune_batch
    warm = config.pretrain.model_copy(update=changes)
    pretrain(config.model, warm, images, rows, device, no_checkpoints(), [record_time])
    step_s = median(list(np.diff(times[len(times) // 2 :])))
    record.add(calibration_s=now() - started, step_s=step_s)
    steps = 2 * run.size.timed_steps
    if not run.rehearse:
        steps = max(steps, int(PRETRAINING_SHARE * run.left_s / step_s))
    final = warm.model_copy(update={"steps": steps, "warmup_steps": min(100, steps // 4)})
    started = now()
    result = pretrain(config.model, final, images, rows, device, no_checkpoints())
    taken = now() - started
    last = result.history[-1]
    record.add(
        pretrain_steps=steps,
        pretrain_batch=final.batch_size,
        pretrain_s=taken,
        pretrain_images_per_s=steps * final.batch_size / taken,
        pretrain_epochs=steps * final.batch_size / len(rows),
        pretrain_loss=last.loss,
        pretrain_accuracy=last.accuracy,
        peak_learning_rate=final.peak_learning_rate,
    )
    return Weights(result.tensors, {"configuration": {"model": config.model.model_dump()}})


def train_cell(
    run: Run, setting: Setting, encoder: Weights | None, fraction: float, seed: int
) -> float:
    """Finetune one arm with one seed; return the test accuracy after its last step."""
    model, labels = setting.config.model, setting.labels
    finetuning = setting.config.finetune.model_copy(
        update={"steps": run.size.finetune_steps, "batch_size": run.size.finetune_batch}
    )
    build = (model, finetuning.architecture, setting.images.patch, int(labels.max()) + 1, seed)
    network = initialise_classifier(*build)
    pretrained = load_encoder_into(network, encoder, model) if encoder else []
    chosen = labeled_subset(labels[: setting.train_images], fraction, seed)
    result = finetune(
        network,
        pretrained=pretrained,
        recipe=finetuning,
        seed=seed,
        images=setting.images,
        rows=chosen,
        labels=labels[chosen],
        device=setting.device,
        checkpoints=no_checkpoints(),
        title="selfie" if encoder else "supervised",
    )
    trained = initialise_classifier(*build)
    trained.load_state_dict(result.tensors)
    test = np.arange(setting.train_images, len(labels))
    return compute_accuracy(trained, setting.images, test, labels[test], setting.device)


def summary(cells: list[dict[str, Any]], fraction: float) -> dict[str, Any]:
    """Return both arms' mean and standard deviation, and the paired difference's interval, in %."""
    table = pd.DataFrame([cell for cell in cells if cell["labeled_frac"] == fraction])
    result: dict[str, Any] = {"seeds": len(table)}
    columns = {
        "supervised": table["supervised"],
        "selfie": table["selfie"],
        "gain": table["selfie"] - table["supervised"],
    }
    for name, values in columns.items():
        found = summarise(100 * values)
        numbers = {"mean": found.mean, "std": found.std, "low": found.low, "high": found.high}
        result[name] = {key: round(x, 2) for key, x in numbers.items() if math.isfinite(x)}
    return result
