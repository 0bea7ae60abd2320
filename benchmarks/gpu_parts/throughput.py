"""Measures the paper-size pretraining step, in images a second, in several variants."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
from common import (
    bare_step,
    digit_images,
    now,
    peak_memory,
    pretraining_task,
    reset_peak_memory,
    seconds,
)

from gpu_parts.run import Record, Run, time_limit, write_table
from selfie_pipeline.models.selfie import Selfie
from selfie_pipeline.training.data.batches import Batches
from selfie_pipeline.training.data.prefetch import prefetch
from selfie_pipeline.training.device import Device

MIN_VARIANT_S = 10
"""A variant with less time left is not started."""

AHEAD_SHARE = 0.45
"""Largest share of the time to spend on compiling ahead."""

GRAPHS = {"triton.cudagraphs": True}
PRODUCTS = {"conv_1x1_as_mm": True}
AUTOTUNE = {"max_autotune": True, "coordinate_descent_tuning": True}
"""Inductor's options that torch's mode `max-autotune-no-cudagraphs` sets."""


@dataclass(frozen=True)
class Variant:
    """A variant of computing the step.

    Attributes:
        name: Its name in the results.
        compile: Arguments of `torch.compile`; None to run eagerly.
        channels_last: True for channels-last memory format, which trainings use.
    """

    name: str
    compile: dict[str, Any] | None = None
    channels_last: bool = True


VARIANTS = (
    Variant("compiled, CUDA graphs", {"options": GRAPHS}),  # as in trainings
    Variant("compiled, CUDA graphs, 1×1 as products", {"options": GRAPHS | PRODUCTS}),
    # torch's own kernels: BatchNorm is cuDNN's, and the activation is a separate pass.
    Variant("CUDA graphs, BatchNorm not fused", {"backend": "cudagraphs"}),
    Variant("eager, channels last"),
    Variant("compiled", {}),
    Variant(
        "compiled, CUDA graphs, 1×1 as products, max-autotune",
        {"options": GRAPHS | PRODUCTS | AUTOTUNE},
    ),
    Variant("compiled, max-autotune", {"options": AUTOTUNE}),
    Variant("eager, channels first", channels_last=False),
)
"""Variants to time, the most informative first. Inductor fuses BatchNorm's normalisation with the
activation and the sums of the next pass; unfused, each is a pass over memory."""


def throughput(run: Run) -> None:
    """Time the pretraining step: the trainings' variant at every batch size, then the others."""
    device = run.device(run.config())
    record = Record(run.out, "throughput", device=device.name, precision=device.precision)
    first = run.size.batches[0]
    used, *others = [VARIANTS[index] for index in run.size.variants]
    cases = [(used, batch) for batch in run.size.batches] + [(other, first) for other in others]
    started = now()
    compile_ahead(run, cases)
    record.add(compile_ahead_s=now() - started)
    table: list[dict[str, Any]] = []
    profiled = None
    for variant, batch in cases:
        if run.left_s < MIN_VARIANT_S:
            break
        kernels = run.out / "kernels.csv" if profiled is None else None
        table.append(measure(run, variant, batch, kernels))
        write_table(table, run.out / "throughput.csv")
        row = table[-1]
        record.add(**{f"{variant.name}, batch {batch}": row.get("images_per_s", row.get("error"))})
        if kernels and kernels.exists():
            profiled = variant.name
            record.add(kernels_of=f"{variant.name}, batch {batch}")
    measured = [row for row in table if "images_per_s" in row]
    if not measured:
        raise SystemExit("no way to compute the step could be timed")
    fastest = max(measured, key=lambda row: row["images_per_s"])
    record.add(fastest=fastest)
    if fastest["variant"] != profiled and run.left_s > MIN_VARIANT_S:
        best = next(variant for variant in VARIANTS if variant.name == fastest["variant"])
        again = measure(run, best, first, run.out / "kernels.csv")
        if "error" not in again:
            record.add(kernels_of=f"{best.name}, batch {first}")
    failed = [row["variant"] for row in table if "error" in row]
    if run.rehearse and failed:
        raise SystemExit(f"could not be timed: {failed}")


def compile_ahead(run: Run, cases: list[tuple[Variant, int]]) -> None:
    """Compile the cases in parallel processes, into the compiler's cache on disk.

    Most of a compilation is the work of one core. Autotuned kernels are not compiled ahead, because
    timings beside other processes would be wrong.
    """
    ends = time.monotonic() + AHEAD_SHARE * run.left_s
    to_compile = [
        (variant, batch)
        for variant, batch in cases
        if variant.compile is not None
        and "backend" not in variant.compile
        and "max_autotune" not in variant.compile.get("options", {})
    ]

    def compile_one(case: tuple[Variant, int]) -> None:
        left = ends - time.monotonic()
        if left < MIN_VARIANT_S:
            return
        named = json.dumps([VARIANTS.index(case[0]), case[1]])
        command = [sys.executable, *sys.argv, "--piece", named]
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(command, timeout=left, check=False)

    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 3)) as pool:
        list(pool.map(compile_one, to_compile))


def compute_piece(run: Run, case: str) -> None:
    """Compile a case by taking a step of it, in a process of `compile_ahead`."""
    index, batch = json.loads(case)
    start_variant(run, VARIANTS[index], batch, steps=1)


def measure(run: Run, variant: Variant, batch: int, kernels: Path | None) -> dict[str, Any]:
    """Time a case, and profile it if a file is given; return its row, or that of its error."""
    row: dict[str, Any] = {"variant": variant.name, "batch": batch}
    try:
        with time_limit(min(run.left_s - 5, run.size.variant_limit_s)):
            step, first_steps_s = start_variant(run, variant, batch, steps=3)
            row |= time_step(step, batch, run.size.timed_steps) | {"first_steps_s": first_steps_s}
            if kernels:
                profile(step, run.device(run.config()), kernels)
    except Exception as error:
        traceback.print_exc()
        row["error"] = repr(error)[:300]
    return row


def start_variant(
    run: Run, variant: Variant, batch: int, steps: int
) -> tuple[Callable[[], None], float]:
    """Build a variant's step and take a few; return it, and the seconds that these took."""
    torch.compiler.reset()
    reset_peak_memory()
    config = run.config(batch_size=batch, steps=10**6)
    device = run.device(config)
    images, rows = digit_images(config)
    task = pretraining_task(config, images).to(device.type)
    train = bare_step(task, device)
    if not variant.channels_last:
        put_channels_first(task.network)
    if variant.compile is not None:
        task.network.compile(dynamic=False, **compiler_for(device, variant.compile))
    batches: Iterator[Any] = prefetch(Batches(images, rows, 0, config.pretrain), device.type)

    def step() -> None:
        train(next(batches))

    started = now()
    for _ in range(steps):
        step()
    return step, now() - started


def compiler_for(device: Device, asked: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `torch.compile`; on a CPU those that only capture the graphs.

    Compiling them to C++ would take minutes, and say nothing about a GPU.
    """
    return asked if device.type == "cuda" else {"backend": "aot_eager"}


def put_channels_first(network: Selfie) -> None:
    """Put the patch network's kernels and its input patches into channels-first memory format."""
    network.to(memory_format=torch.contiguous_format)
    network.patch_network.register_forward_pre_hook(
        lambda _, patches: (patches[0].contiguous(memory_format=torch.contiguous_format),)
    )


def time_step(step: Callable[[], None], batch: int, steps: int) -> dict[str, float]:
    """Time three blocks of steps."""
    blocks = [seconds(step, repeat=steps) for _ in range(3)]
    return {
        "images_per_s": batch / median(blocks),
        "slowest_block": batch / max(blocks),
        "fastest_block": batch / min(blocks),
        "peak_memory_bytes": peak_memory(),
    }


def profile(step: Callable[[], None], device: Device, file: Path) -> None:
    """Write the kernels of three steps, the slowest first, with their share of the time."""
    on_gpu = device.type == "cuda"
    kind = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kind.CUDA if on_gpu else kind.CPU]) as profiler:
        for _ in range(3):
            step()
        now()
    rows = [
        {
            "kernel": event.key[:160],
            "calls_per_step": event.count / 3,
            "ms_per_step": (event.self_device_time_total if on_gpu else event.self_cpu_time_total)
            / 3e3,
        }
        for event in profiler.key_averages()
    ]
    table = pd.DataFrame(rows).sort_values("ms_per_step", ascending=False)
    table["share"] = table["ms_per_step"] / table["ms_per_step"].sum()
    write_table(table.head(60), file)
    print(table.head(20).to_string(), flush=True)
