"""The context of each part of `gpu.py`: sizes, time limit, recipe, and the record of results."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from common import recipe

from selfie_pipeline.atomic_write import atomic_write
from selfie_pipeline.config import Config, ModelConfig
from selfie_pipeline.provenance import describe_environment
from selfie_pipeline.training.device import Device, find_device


@dataclass(frozen=True)
class Size:
    """The sizes of a run: those of the paper, or those of a rehearsal.

    Attributes:
        batches: Batch sizes to time, in images.
        variants: Indices into `throughput.VARIANTS` of the variants to time.
        check_batch: Batch size of preflight and resume.
        copied_bytes: Size of the copy that measures the memory's bandwidth.
        timed_steps: Steps of a timed block.
        variant_limit_s: Time limit of a variant, its compilation included.
        resume_steps: Steps of the training that is killed.
        finetune_steps: Steps of a finetuning.
        finetune_batch: Batch size of a finetuning.
        seeds: Number of finetunings of each arm and fraction.
        fractions: Labeled fractions, the most important first.
        peers: Options of `peers.py`.
    """

    batches: tuple[int, ...]
    variants: tuple[int, ...]
    check_batch: int
    copied_bytes: int
    timed_steps: int
    variant_limit_s: int
    resume_steps: int
    finetune_steps: int
    finetune_batch: int
    seeds: int
    fractions: tuple[float, ...]
    peers: str


PAPER = Size(
    batches=(512, 1024, 2048),
    variants=(0, 1, 2, 3, 4, 5, 6, 7),
    check_batch=64,
    copied_bytes=2**32,
    timed_steps=20,
    variant_limit_s=90,
    resume_steps=120,
    finetune_steps=700,
    finetune_batch=256,
    seeds=5,
    fractions=(0.05, 0.08, 0.2),
    # A loader queues two batches a worker, so a turn needs more steps to show its sustained rate.
    peers="--batch 512 --workers 14 --steps 30 --rounds 2",
)
REHEARSAL = Size(
    batches=(16,),
    variants=(0, 3, 7),  # the others differ from the first by options of the compiler
    check_batch=8,
    copied_bytes=2**26,
    timed_steps=3,
    variant_limit_s=400,
    resume_steps=24,
    finetune_steps=4,
    finetune_batch=16,
    seeds=2,
    fractions=(0.05, 0.1),
    peers="--batch 2 --workers 1 --steps 1 --rounds 1",
)


@dataclass(frozen=True)
class Run:
    """The context of a part: its sizes, folders and time limit.

    Attributes:
        size: Its sizes.
        rehearse: True for a tiny network.
        out: The folder of the results.
        data: The folder with CIFAR-10, made by `gpu_bundle.py`.
        selfie: A checkout of wuhoward/SELFIE.
        ends: Value of `time.monotonic()` at the part's time limit.
    """

    size: Size
    rehearse: bool
    out: Path
    data: Path | None
    selfie: Path | None
    ends: float

    @property
    def left_s(self) -> float:
        """Return the seconds that are left."""
        return self.ends - time.monotonic()

    def config(self, **pretrain: Any) -> Config:
        """Return the recipe for CIFAR-10, with a tiny network in a rehearsal."""
        config = recipe("cifar10", **pretrain)
        if not self.rehearse:
            return config
        model = config.model.model_dump() | {"layers": [1, 1, 1, 1], "width": 8}
        model["attention"] |= {"blocks": 1, "heads": 4, "intermediate": 40}
        return config.model_copy(update={"model": ModelConfig.model_validate(model)})

    def device(self, config: Config, **changes: Any) -> Device:
        """Return the accelerator, or the CPU where there is none; it does not compile."""
        return replace(find_device(config.compute), compile=False, **changes)


class Record:
    """The results of a part, in a JSON file that is rewritten whole after each of them."""

    def __init__(self, out: Path, part: str, **known: Any) -> None:
        self.path = out / f"{part}.json"
        self.results = {"part": part, **known, **describe_environment()}
        self.results["time"] = datetime.now(UTC).isoformat(timespec="seconds")

    def add(self, **results: Any) -> None:
        """Print results, and write all results so far."""
        for name, value in results.items():
            shown = f"{value:,.4g}" if isinstance(value, float) else value
            print(f"  {name}: {shown}", flush=True)
        self.results |= results
        with atomic_write(self.path) as path:
            path.write_text(json.dumps(self.results, indent=2, allow_nan=False) + "\n", "utf-8")


def write_table(rows: list[dict[str, Any]] | pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, whole or not at all."""
    with atomic_write(path) as partial:
        pd.DataFrame(rows).to_csv(partial, index=False)


@contextmanager
def time_limit(limit_s: float) -> Iterator[None]:
    """Raise TimeoutError in the body if it takes longer than this."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {limit_s:.0f} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(limit_s, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
