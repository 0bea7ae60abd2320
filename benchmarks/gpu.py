"""All that is to be known of a GPU in a few minutes: does it compute right, how fast, to what end?

    python benchmarks/gpu.py --out DIR [--data FOLDER] [--parts preflight,…]
    python benchmarks/gpu.py --rehearse --out DIR

- *preflight*: memory bandwidth, bf16 rate; the first steps of a pretraining against the same on the
  CPU; a step in which torch forbids the host to wait for the GPU.
- *throughput*: images a second of the paper-size pretraining step, eager and compiled in several
  ways, at several batch sizes; the kernels that the time goes into.
- *peers*: what `peers.py` measures, a plain Selfie and lightly's SimCLR.
- *resume*: a pretraining killed with SIGKILL and resumed, bit for bit the undisturbed one.
- *row*: CIFAR-10 with the paper's network: a pretraining, then both arms on few labels.

Each part is a process of its own with a limit of seconds, and writes each result as soon as it has
it; what its time no longer allows is left out. `--rehearse` runs the same code with tiny sizes, on
a machine without a GPU too. FOLDER is what `gpu_bundle.py` made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import (
    PROJECT,
    ArrayGrids,
    bare_step,
    best_rate,
    digit_images,
    median,
    no_checkpoints,
    now,
    pretraining_task,
    recipe,
    seconds,
)
from gpu_bundle import load_cifar10
from numpy.typing import NDArray

from selfie_pipeline.config import Config, ModelConfig
from selfie_pipeline.evaluation.scores import accuracy
from selfie_pipeline.evaluation.statistics import summarise
from selfie_pipeline.provenance import describe_environment
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.batches import Batches, Images
from selfie_pipeline.training.data.prefetch import prefetch
from selfie_pipeline.training.data.subset import labeled_subset
from selfie_pipeline.training.device import Device, find_device
from selfie_pipeline.training.finetuning import (
    classify,
    finetune,
    initialise_classifier,
    load_encoder_into,
)
from selfie_pipeline.training.pretraining import pretrain
from selfie_pipeline.training.state import TrainingState
from selfie_pipeline.weights import Weights

FP32_TOLERANCE, BF16_TOLERANCE = 2e-3, 3e-2
"""Largest relative difference of a loss from the CPU's in fp32, of the first steps."""

TINY = {"model.layers": [1, 1, 1, 1], "model.width": 8, "model.attention.intermediate": 40}
"""The network of a rehearsal."""


@dataclass(frozen=True)
class Size:
    """The sizes of a run: of the paper, or of a rehearsal."""

    batches: tuple[int, ...]
    check_batch: int
    copied_bytes: int
    timed_steps: int
    resume_steps: int
    finetune_steps: int
    finetune_batch: int
    seeds: int
    fractions: tuple[float, ...]


PAPER = Size((512, 1024, 2048), 64, 2**32, 20, 120, 700, 256, 5, (0.05, 0.08, 0.2))
REHEARSAL = Size((16, 32), 8, 2**26, 3, 24, 4, 16, 2, (0.05,))


class Record:
    """Results of a part, in a JSON file that is whole after each of them."""

    def __init__(self, out: Path, part: str, **known: Any) -> None:
        self.path = out / f"{part}.json"
        self.results = {"part": part, **known, **describe_environment()}
        self.results["time"] = datetime.now(UTC).isoformat(timespec="seconds")

    def add(self, **results: Any) -> None:
        """Print results and write all so far."""
        for name, value in results.items():
            shown = f"{value:,.4g}" if isinstance(value, float) else value
            print(f"  {name}: {shown}", flush=True)
        self.results |= results
        self.path.write_text(json.dumps(self.results, indent=2, allow_nan=False) + "\n", "utf-8")


@contextmanager
def time_limit(limit_s: float) -> Iterator[None]:
    """Raise TimeoutError in what takes longer than this."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {limit_s:.0f} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(limit_s, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@dataclass(frozen=True)
class Run:
    """What every part is given."""

    size: Size
    rehearse: bool
    out: Path
    data: Path | None
    ends: float  # time.monotonic() at which the part's time is up

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self.ends - time.monotonic()

    def config(self, **pretrain: Any) -> Config:
        """Return the recipe for CIFAR-10, with a tiny network in a rehearsal."""
        config = recipe("cifar10", **pretrain)
        if not self.rehearse:
            return config
        model = config.model.model_dump() | {"layers": [1, 1, 1, 1], "width": 8}
        model["attention"] |= {"heads": 4, "intermediate": 40}
        return config.model_copy(update={"model": ModelConfig.model_validate(model)})

    def device(self, config: Config, **changes: Any) -> Device:
        """Return the accelerator, or in a rehearsal the CPU."""
        return replace(find_device(config.compute), compile=False, **changes)


# Preflight


def preflight(run: Run) -> None:
    """Measure the machine, and compare the first steps with the CPU's."""
    # After a step at the full rate, rounding alone would make the losses differ by per cents.
    config = run.config(
        batch_size=run.size.check_batch, steps=2, warmup_steps=0, peak_learning_rate=0.01
    )
    device = run.device(config)
    record = Record(run.out, "preflight", device=device.name, batch=run.size.check_batch)
    record.add(copy_bytes_per_s=copy_rate(run.size.copied_bytes, device))
    rates = [best_rate(device) for _ in range(3)]
    record.add(best_flops=max(rates), precision=device.precision)

    expected = first_losses(config, Device("cpu", bf16=False))
    record.add(cpu_fp32_losses=expected)
    for bf16, tolerance in ((False, FP32_TOLERANCE), (True, BF16_TOLERANCE)):
        losses = first_losses(config, replace(device, bf16=bf16))
        difference = max(abs(a / b - 1) for a, b in zip(losses, expected, strict=True))
        name = "bf16" if bf16 else "fp32"
        record.add(
            **{
                f"{name}_losses": losses,
                f"{name}_largest_difference": difference,
                f"{name}_tolerance": tolerance,
                f"{name}_within_tolerance": difference <= tolerance,
            }
        )
    record.add(host_waits_within_a_step=waiting_calls(config, device))


def copy_rate(size: int, device: Device) -> float:
    """Return the bytes a second that a large copy within the device's memory reads and writes."""
    one = torch.empty(size, dtype=torch.uint8, device=device.type)
    other = torch.empty_like(one)
    copies = [seconds(lambda: other.copy_(one)) for _ in range(10)]
    return 2 * size / median(copies[1:])


def first_losses(config: Config, device: Device) -> list[float]:
    """Return the losses of the first two steps; dropout is the same on all devices."""
    images, rows = digit_images(config)
    task = pretraining_task(config, images).to(device.type)
    losses: list[float] = []
    task.register_forward_hook(lambda _, __, output: losses.append(output[0].item()))
    step = bare_step(task, device)
    for batch in prefetch(Batches(images, rows, 0, config.pretrain), device.type):
        step(batch)
    return losses


def waiting_calls(config: Config, device: Device) -> str:
    """Train a step in which torch forbids every call that waits for the GPU."""
    if device.type != "cuda":
        return "not checked without a GPU"
    images, rows = digit_images(config)
    step = bare_step(pretraining_task(config, images).to(device.type), device)
    first, second = prefetch(Batches(images, rows, 0, config.pretrain), device.type)
    step(first)  # cuDNN tries its kernels
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(second)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "none"


# Throughput

VARIANTS: dict[str, dict[str, Any] | None] = {
    "compiled, CUDA graphs": {"triton.cudagraphs": True},
    "compiled, CUDA graphs, 1×1 convolutions as products": {
        "triton.cudagraphs": True,
        "conv_1x1_as_mm": True,
    },
    "eager, channels last": None,
    "compiled, CUDA graphs, 1×1 convolutions as products, max-autotune": {
        "triton.cudagraphs": True,
        "conv_1x1_as_mm": True,
        "max_autotune": True,
    },
    "compiled": {},
    "eager, channels first": None,
    "compiled, max-autotune": {"max_autotune": True},
}
"""Ways to compute the step, the most informative first; the options of the compiler."""

ENOUGH_S = 10
"""Nothing is begun with less time left."""

VARIANT_LIMIT_S = 90
"""What one of them may take, its compilation included."""


def throughput(run: Run) -> None:
    """Time the pretraining step: the way that trainings use at every batch size, then others."""
    device = run.device(run.config())
    record = Record(run.out, "throughput", device=device.name, precision=device.precision)
    table: list[dict[str, Any]] = []

    def measure(variant: str, batch: int, *, kernels: bool = False) -> None:
        row: dict[str, Any] = {"variant": variant, "batch": batch}
        try:
            with time_limit(min(run.left_s - 5, VARIANT_LIMIT_S)):
                step, batches, first_steps_s = start_variant(run, variant, batch)
                row |= time_variant(run, step, batches, batch) | {"first_steps_s": first_steps_s}
                if kernels:
                    profile(lambda: step(next(batches)), device, run.out / "kernels.csv")
        except Exception as error:
            traceback.print_exc()
            row["error"] = repr(error)[:300]
        table.append(row)
        pd.DataFrame(table).to_csv(run.out / "throughput.csv", index=False)
        record.add(**{f"{variant}, batch {batch}": row.get("images_per_s", row.get("error"))})

    first, *larger = run.size.batches
    used, *others = VARIANTS
    measure(used, first, kernels=True)
    for batch in larger:
        measure(used, batch)
    for variant in others:
        if run.left_s > ENOUGH_S:
            measure(variant, first)
    measured = [row for row in table if "images_per_s" in row]
    record.add(fastest=max(measured, key=lambda row: row["images_per_s"]))


def start_variant(
    run: Run, variant: str, batch: int
) -> tuple[Callable[[Any], None], Iterator[Any], float]:
    """Build a variant's step and batches; train three steps. Also returns the seconds it took."""
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    config = run.config(batch_size=batch, steps=10**6)
    device = run.device(config)
    images, rows = digit_images(config)
    task = pretraining_task(config, images).to(device.type)
    if variant == "eager, channels first":
        task.network.to(memory_format=torch.contiguous_format)
    step = bare_step(task, device)
    options = VARIANTS[variant]
    if options is not None:
        task.network.compile(dynamic=False, options=options)
    batches = prefetch(Batches(images, rows, 0, config.pretrain), device.type)
    started = now()
    for _ in range(3):
        step(next(batches))
    return step, batches, now() - started


def time_variant(
    run: Run, step: Callable[[Any], None], batches: Iterator[Any], batch: int
) -> dict[str, float]:
    """Time a variant's step."""
    blocks = [seconds(lambda: step(next(batches)), repeat=run.size.timed_steps) for _ in range(3)]
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {
        "images_per_s": batch / median(blocks),
        "slowest_block": batch / max(blocks),
        "fastest_block": batch / min(blocks),
        "peak_memory_bytes": peak,
    }


def profile(step: Callable[[], None], device: Device, file: Path) -> None:
    """Write the kernels of three steps, the longest first, with their share of the time."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(3):
            step()
        now()
    on_gpu = device.type == "cuda"
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
    table.head(60).to_csv(file, index=False)
    print(table.head(20).to_string(), flush=True)


# Peers


def peers(run: Run) -> None:
    """Time the step beside a plain Selfie and lightly's SimCLR, each with its own batches."""
    batch, workers = (8, 1) if run.rehearse else (512, 14)
    command = [sys.executable, str(PROJECT / "benchmarks" / "peers.py"), "--rounds", "5"]
    command += ["--batch", str(batch), "--workers", str(workers)]
    subprocess.run([*command, "--json", str(run.out / "peers.json")], check=True)


# Resume


def resume(run: Run) -> None:
    """Kill a deterministic pretraining, resume it, and compare it with an undisturbed one."""
    record = Record(run.out, "resume", steps=run.size.resume_steps)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = subprocess.run(
            train_command(run, folder / "whole"), capture_output=True, text=True, check=True
        )
        digest = whole.stdout.split()[-1]
        record.add(undisturbed=digest)
        process = subprocess.Popen(train_command(run, folder / "killed"), stdout=subprocess.DEVNULL)
        while process.poll() is None and not list((folder / "killed").glob("step-*.json")):
            time.sleep(0.01)
        time.sleep(random.random() * 0.5)
        process.kill()
        process.wait()
        saved = sorted(path.stem for path in (folder / "killed").glob("step-*.json"))
        record.add(killed_after=saved[-1] if saved else "nothing")
        again = subprocess.run(
            train_command(run, folder / "killed"), capture_output=True, text=True, check=True
        )
        resumed = again.stdout.split()[-1]
        record.add(resumed=resumed, same_bits=resumed == digest)


def train_command(run: Run, folder: Path) -> list[str]:
    """Return the command that trains with checkpoints in the folder and prints the digest."""
    command = [sys.executable, __file__, "--train", str(folder), "--out", str(run.out)]
    return [*command, "--rehearse"] if run.rehearse else command


def train(run: Run, folder: Path) -> None:
    """Pretrain deterministically, resuming where possible; print the digest of the weights."""
    steps = run.size.resume_steps
    config = run.config(batch_size=run.size.check_batch, steps=steps, warmup_steps=4, log_every=5)
    device = run.device(config, deterministic=True)
    images, rows = digit_images(config)
    checkpoints = Checkpoints(folder, {"benchmark": "gpu"}, steps // 8, "auto")
    result = pretrain(config.model, config.pretrain, images, rows, device, checkpoints)
    digest = hashlib.sha256()
    for name, tensor in sorted(result.tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    print(digest.hexdigest())


# The paper's row


def row(run: Run) -> None:
    """Pretrain on CIFAR-10, then finetune both arms on few labels, seed after seed."""
    config = run.config()
    device = replace(find_device(config.compute), deterministic=False)
    pixels, labels = load_cifar10(run.data) if run.data else stand_in(run)
    train_images = len(pixels) * 5 // 6  # then come the test images
    grids = ArrayGrids(pixels, config.patch.patch_size, train_images)
    images = Images(grids, config.patch, config.augmentation)
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
    encoder = pretrain_for(run, config, images, np.arange(train_images), device, record)
    cells: list[dict[str, Any]] = []
    taken = 0.0
    for fraction in run.size.fractions:
        for seed in range(run.size.seeds):
            if run.left_s < 2.2 * taken + 5:
                return
            started = now()
            pair = {"labeled_frac": fraction, "seed": seed}
            for arm, weights in (("supervised", None), ("selfie", encoder)):
                pair[arm] = train_cell(
                    run, config, images, labels, train_images, weights, fraction, seed, device
                )
            taken = (now() - started) / 2
            cells.append(pair)
            pd.DataFrame(cells).to_csv(run.out / "row.csv", index=False)
            record.add(**{f"{fraction:.0%}": summary(cells, fraction)})


def stand_in(run: Run) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return a few of the digits where there is no CIFAR-10, with their true classes."""
    from common import drawn_digits
    from sklearn.datasets import load_digits

    count = 600 if run.rehearse else None
    return drawn_digits()[:count], load_digits().target.astype(np.int64)[:count]


def pretrain_for(
    run: Run,
    config: Config,
    images: Images,
    rows: NDArray[np.int64],
    device: Device,
    record: Record,
) -> Weights:
    """Pretrain for 40 % of the time left, after a few steps that tell how many those are."""
    started = now()
    times: list[float] = []

    def note_time(_: TrainingState) -> None:
        times.append(time.perf_counter())

    warm = config.pretrain.model_copy(update={"steps": 4 * run.size.timed_steps, "log_every": 20})
    pretrain(config.model, warm, images, rows, device, no_checkpoints(), note_time)
    settled = times[len(times) // 2 :]
    step_s = (settled[-1] - settled[0]) / (len(settled) - 1)
    record.add(calibration_s=now() - started, step_s=step_s)
    steps = max(2 * run.size.timed_steps, int(0.4 * run.left_s / step_s))
    if run.rehearse:
        steps = 2 * run.size.timed_steps
    final = config.pretrain.model_copy(
        update={"steps": steps, "warmup_steps": min(100, steps // 4), "log_every": 20}
    )
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
    run: Run,
    config: Config,
    images: Images,
    labels: NDArray[np.int64],
    train_images: int,
    encoder: Weights | None,
    fraction: float,
    seed: int,
    device: Device,
) -> float:
    """Finetune one arm with one seed; return the test accuracy after its last step."""
    finetuning = config.finetune.model_copy(
        update={"steps": run.size.finetune_steps, "batch_size": run.size.finetune_batch}
    )
    classes = int(labels.max()) + 1
    architecture = finetuning.architecture
    network = initialise_classifier(config.model, architecture, images.patch, classes, seed)
    pretrained = load_encoder_into(network, encoder, config.model) if encoder else []
    chosen = labeled_subset(labels[:train_images], fraction, seed)
    result = finetune(
        network,
        pretrained=pretrained,
        recipe=finetuning,
        seed=seed,
        images=images,
        rows=chosen,
        labels=labels[chosen],
        device=device,
        checkpoints=no_checkpoints(),
        title="selfie" if encoder else "supervised",
    )
    trained = initialise_classifier(config.model, architecture, images.patch, classes, seed)
    trained.load_state_dict(result.tensors)
    test = np.arange(train_images, len(labels))
    return accuracy(labels[test], classify(trained, images, test, device))


def summary(cells: list[dict[str, Any]], fraction: float) -> dict[str, Any]:
    """Return mean and deviation of both arms, and the interval of the paired difference."""
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


PARTS: dict[str, tuple[Callable[[Run], None], int]] = {
    "preflight": (preflight, 40),
    "throughput": (throughput, 150),
    "peers": (peers, 120),
    "resume": (resume, 60),
    "row": (row, 400),
}
"""Each part with its limit in seconds, the imports included."""


def main() -> None:
    """Run the parts one after another, each in a process of its own."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    run = Run(
        REHEARSAL if options.rehearse else PAPER,
        options.rehearse,
        options.out,
        options.data,
        time.monotonic() + (options.limit or 10**9),
    )
    if options.train:
        train(run, options.train)
        return
    if options.part:
        PARTS[options.part][0](run)
        return
    ends = time.monotonic() + options.budget
    for part in options.parts.split(","):
        limit = min(options.limits.get(part, PARTS[part][1]), ends - time.monotonic())
        if limit < ENOUGH_S:
            print(f"{part}: no time left", flush=True)
            continue
        print(f"{part}: {limit:.0f} s at most", flush=True)
        started = time.monotonic()
        command = [sys.executable, *sys.argv, "--part", part, "--limit", str(limit - 5)]
        try:
            code = subprocess.run(command, timeout=limit, check=False).returncode
            print(f"{part}: exit status {code}, {time.monotonic() - started:.0f} s", flush=True)
        except subprocess.TimeoutExpired:
            print(f"{part}: stopped after {limit:.0f} s", flush=True)
    if options.rehearse and len(list(options.out.glob("*.json"))) < len(options.parts.split(",")):
        raise SystemExit("a part left no result")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=lambda name: Path(name).absolute(), required=True)
    parser.add_argument("--data", type=lambda name: Path(name).absolute(), help="of gpu_bundle.py")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on any machine")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated, in order")
    parser.add_argument("--budget", type=float, default=580, help="seconds in all")
    parser.add_argument("--limits", type=json.loads, default={}, help='{"row": 300}, seconds')
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
