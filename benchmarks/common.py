"""Functions that the benchmarks share: images, a task, the processor's peak rate, result files."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Kedro's own configuration writes to standard output, to which a benchmark writes its result.
os.environ["KEDRO_LOGGING_CONFIG"] = str(Path(__file__).resolve().parents[1] / "conf/logging.yml")

import numpy as np
import torch
from kedro.config import OmegaConfigLoader
from numpy.typing import NDArray
from scipy.stats import quantile_test

from selfie_pipeline.config import Config, load_config
from selfie_pipeline.models.patch_grid import patchify
from selfie_pipeline.models.selfie import Selfie
from selfie_pipeline.provenance import describe_environment
from selfie_pipeline.settings import CONFIG_LOADER_ARGS
from selfie_pipeline.sources.digits import Digits
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.batches import WindowReader
from selfie_pipeline.training.data.randomness import seeded_initialisation
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.finetuning import initialise_classifier
from selfie_pipeline.training.optimizer import build_optimizer, clip_gradients, set_learning_rate
from selfie_pipeline.training.tasks import FinetuningTask, PretrainingTask, Task

PROJECT = Path(__file__).resolve().parents[1]


def recipe(name: str, stage: str = "pretrain", **changes: Any) -> Config:
    """Load a recipe's parameters ("base": the defaults), with some of a stage's changed."""
    loader = OmegaConfigLoader(
        str(PROJECT / "conf"), env="local" if name == "base" else name, **CONFIG_LOADER_ARGS
    )
    parameters = loader["parameters"]
    parameters[stage] |= changes
    return load_config(parameters)


def drawn_digits(size: int = 32) -> NDArray[np.uint8]:
    """Return scikit-learn's digits, (M, size, size, 3)."""
    source = Digits()
    return np.concatenate([chunk.images for chunk in source.images(source.samples(), size)])


class ArrayGrids:
    """Patch grids in memory."""

    def __init__(self, images: NDArray[np.uint8], patch_size: int, train: int) -> None:
        """Cut images, (M, H, W, C), of which the first `train` are the training images."""
        channels_first = torch.from_numpy(images).permute(0, 3, 1, 2)  # (M, C, H, W)
        self.patches = patchify(channels_first, patch_size).numpy()  # (M, N, C, P, P)
        pixels = torch.from_numpy(images[:train]).reshape(-1, 3).float() / 255
        self.grid = (images.shape[1] // patch_size, images.shape[2] // patch_size)
        self.mean = pixels.mean(dim=0).numpy()
        self.std = pixels.std(dim=0).numpy()

    def __len__(self) -> int:
        return len(self.patches)

    def gather(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Gather patches with numpy, as the patch-grid store does; torch would use all threads."""
        return torch.from_numpy(self.patches[rows])


def digit_images(config: Config) -> tuple[WindowReader, NDArray[np.int64]]:
    """Return all digits, and their row numbers."""
    digits = drawn_digits(config.patch.canvas_size)
    grids = ArrayGrids(digits, config.patch.patch_size, train=len(digits))
    return WindowReader(grids, config.patch, config.augmentation), np.arange(len(grids))


def pretraining_task(config: Config, images: WindowReader) -> PretrainingTask:
    """Return a freshly initialised pretraining task."""
    with seeded_initialisation(config.pretrain.seed):
        network = Selfie(config.model, config.patch)
    return PretrainingTask(network, config.pretrain, images)


def finetuning_task(config: Config, images: WindowReader) -> FinetuningTask:
    """Return a freshly initialised finetuning task with the classes of the digits."""
    architecture = config.finetune.architecture
    network = initialise_classifier(config.model, architecture, config.patch, classes=10, seed=0)
    labels = torch.tensor(Digits().samples()["label"].to_numpy())
    return FinetuningTask(network, config.finetune, images, labels, seed=0)


def bare_step(task: Task, device: Device) -> Callable[[Any], None]:
    """Return the step of a bare PyTorch loop with the same task, optimiser and device settings."""
    device.prepare(task.network, cuda_graphs=True)
    recipe = task.recipe
    optimizer = build_optimizer(task.parameter_groups(), recipe)

    def step(batch: Any) -> None:
        set_learning_rate(optimizer, batch.step, recipe)
        optimizer.zero_grad(set_to_none=True)
        with device.autocast():
            loss, _ = task(batch)
        loss.backward()
        clip_gradients(task.network, recipe)
        optimizer.step()

    return step


def copy_project(project: Path, checkout: Path = PROJECT) -> Path:
    """Copy a checkout without its data, with all that `kedro run` needs; return the copy."""
    for name in ("conf", "src"):
        shutil.copytree(checkout / name, project / name)
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(checkout / name, project)
    return project


def no_checkpoints() -> Checkpoints:
    """Return checkpoints that are never due."""
    return Checkpoints(Path(tempfile.mkdtemp()), {}, every=10**9, resume="never")


def now() -> float:
    """Return the clock's seconds, after the GPU has finished its queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def reset_peak_memory() -> None:
    """Release the GPU's cached memory, and reset its peak."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int:
    """Return the peak of the GPU's allocated memory, bytes; 0 without a GPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


@contextmanager
def forbid_synchronisation() -> Iterator[None]:
    """Make torch raise RuntimeError for every call within that waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def seconds(action: Callable[[], Any], repeat: int = 1) -> float:
    """Return the mean time of `repeat` calls, seconds."""
    started = now()
    for _ in range(repeat):
        action()
    return (now() - started) / repeat


def best_rate(device: Device) -> float:
    """Return the FLOP/s of a large matrix product or a large convolution, whichever is faster."""
    dtype = torch.bfloat16 if device.bf16 else torch.float32
    size = 4096 if device.type == "cpu" else 16384
    left = torch.randn(size, size, dtype=dtype, device=device.type)
    maps = torch.randn(64, 256, 56, 56, dtype=dtype, device=device.type)
    maps = maps.contiguous(memory_format=torch.channels_last)
    kernels = torch.randn(256, 256, 3, 3, dtype=dtype, device=device.type)
    kernels = kernels.contiguous(memory_format=torch.channels_last)
    product = 2 * size**3
    convolution = 2 * 64 * 256 * 56 * 56 * 256 * 9
    return max(
        product / seconds(lambda: left @ left),
        convolution / seconds(lambda: torch.nn.functional.conv2d(maps, kernels, padding=1)),
    )


def median_interval(values: list[float]) -> tuple[float, float]:
    """Return the median's 95 % confidence interval, from the binomial distribution of ranks.

    It holds for values of any distribution. Of fewer than six values there is none (nan).
    """
    interval = quantile_test(values, p=0.5).confidence_interval(0.95)
    return float(interval.low), float(interval.high)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    # Made absolute at once, because a benchmark may change its working directory.
    parser.add_argument("--json", type=lambda name: Path(name).absolute(), help="file to write to")
    return parser


def precision_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option for the precision."""
    choices = ["auto", "bf16", "fp32"]
    parser.add_argument("--precision", default="auto", choices=choices, help="to compute in")


def report(result: dict[str, Any], device: Device, path: Path | None) -> None:
    """Print a result as a table, and write it as JSON, with machine, versions and commit."""
    width = max(map(len, result))
    for name, value in result.items():
        shown = f"{value:,.3g}" if isinstance(value, float) else str(value)
        print(f"{name:{width}}  {shown}")
    if path is not None:
        machine = {"device": device.name, "precision": device.precision, **describe_environment()}
        known = {name: None if _missing(value) else value for name, value in result.items()}
        full = {**known, **machine, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(full, indent=2, allow_nan=False) + "\n", "utf-8")


def _missing(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)  # which JSON does not have
