"""Checks and measures a GPU in a few minutes: correctness, speed, resuming, and a row of results.

    python benchmarks/gpu.py --out DIR [--data FOLDER] [--selfie CHECKOUT] [--parts preflight,…]
    python benchmarks/gpu.py --rehearse --out DIR

- *preflight* measures memory bandwidth and bf16 rate, compares the first steps of a pretraining
  with those on the CPU, and takes a step in which torch forbids the host to wait for the GPU.
- *throughput* times the paper-size pretraining step in images a second, eager and compiled in
  several ways, at several batch sizes, and lists the kernels that take the time.
- *peers* runs `peers.py`: other implementations of Selfie, and lightly's SimCLR.
- *resume* kills a pretraining with SIGKILL, resumes it, and compares it bit for bit with an
  undisturbed one.
- *row* pretrains the paper's network on CIFAR-10, then finetunes both arms on few labels.

Each part runs in its own process with a time limit, and writes each result as soon as it has it. A
measurement for which there is no time left is skipped. `--rehearse` runs the same code with tiny
sizes, and needs no GPU. FOLDER is made by `gpu_bundle.py`; CHECKOUT is one of wuhoward/SELFIE.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

MAX_FILES, MAX_BYTES = 8, 16 * 2**20
"""Limits of the results: number of files, and size of each."""

MIN_PART_S = 10
"""A part with less time left is not started."""

GRACE_S = 5
"""Seconds between the end of a part's own time limit and SIGKILL."""


LIMITS = {"preflight": 40, "throughput": 200, "peers": 120, "resume": 45, "row": math.inf}
"""Time limits of the parts, seconds, imports included; the most valuable part is first."""


def main() -> None:
    """Run the parts one after another, each in its own process."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.part:
        compute(options)
        return
    failed = run_parts(options)
    check_results(options.out)
    if failed:
        raise SystemExit(f"failed or out of time: {', '.join(failed)}")


def compute(options: argparse.Namespace) -> None:
    """Compute a part, or a piece of one, in this process."""
    from gpu_parts.run import PAPER, REHEARSAL, Run

    run = Run(
        REHEARSAL if options.rehearse else PAPER,
        options.rehearse,
        options.out,
        options.data,
        options.selfie,
        time.monotonic() + options.limit,
    )
    part = importlib.import_module(f"gpu_parts.{options.part}")
    if options.piece:
        part.compute_piece(run, options.piece)
    else:
        getattr(part, options.part)(run)


def run_parts(options: argparse.Namespace) -> list[str]:
    """Run the parts for which there is time; return those that failed or were stopped."""
    ends = time.monotonic() + options.budget
    failed = []
    for part in options.parts.split(","):
        # A rehearsal tests the code; its time says nothing about a GPU.
        known = math.inf if options.rehearse else LIMITS[part]
        limit = min(options.limits.get(part, known), ends - time.monotonic())
        if limit < MIN_PART_S:
            print(f"{part}: no time left", flush=True)
            if options.rehearse:
                failed.append(part)
            continue
        print(f"{part}: {limit:.0f} s at most", flush=True)
        started = time.monotonic()
        command = [sys.executable, *sys.argv, "--part", part, "--limit", str(limit - GRACE_S)]
        code = run_limited(command, limit)
        print(f"{part}: {describe_end(code)}, {time.monotonic() - started:.0f} s", flush=True)
        if code != 0:
            failed.append(part)
    return failed


def run_limited(command: list[str], limit_s: float) -> int | None:
    """Run a command; return its exit status, or None if it was killed at its time limit.

    All processes that it started are killed with it.
    """
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def describe_end(code: int | None) -> str:
    """Describe how a part ended."""
    return "stopped, its time was up" if code is None else f"exit status {code}"


def check_results(out: Path) -> None:
    """Check that the results are few and small enough to be copied back."""
    files = [path for path in out.rglob("*") if path.is_file()]
    large = [path.name for path in files if path.stat().st_size > MAX_BYTES]
    if len(files) > MAX_FILES or large:
        raise SystemExit(
            f"{out} has {len(files)} files ({MAX_FILES} allowed), and larger than "
            f"{MAX_BYTES // 2**20} MiB: {', '.join(large) or 'none'}"
        )


def parse() -> argparse.Namespace:
    """Read the command line."""

    def folder(name: str) -> Path:
        return Path(name).absolute()

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=folder, required=True, help="folder for the results")
    parser.add_argument("--data", type=folder, help="of gpu_bundle.py; without, digits stand in")
    parser.add_argument("--selfie", type=folder, help="checkout of wuhoward/SELFIE, a peer")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on any machine")
    parser.add_argument("--parts", default=",".join(LIMITS), help="comma-separated, in order")
    parser.add_argument("--budget", type=float, default=580, help="seconds in all")
    parser.add_argument("--limits", type=json.loads, default={}, help='{"row": 300}, seconds')
    parser.add_argument("--part", choices=LIMITS, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--piece", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
