"""Compares the training step with those of other implementations."""

from __future__ import annotations

import subprocess
import sys

from common import PROJECT

from gpu_parts.run import Run


def peers(run: Run) -> None:
    """Run `benchmarks/peers.py`, which times each implementation with its own batches."""
    command = [sys.executable, str(PROJECT / "benchmarks" / "peers.py"), *run.size.peers.split()]
    command += ["--seconds", str(0.7 * run.left_s)]
    if run.selfie:
        command += ["--selfie", str(run.selfie)]
    subprocess.run([*command, "--json", str(run.out / "peers.json")], check=True)
