"""Measures the start-up time of commands: wall time and CPU time.

    python benchmarks/startup.py --baseline ../earlier-checkout

Of a training, also the time until it has made its two steps is measured, because a command may
still have work to do afterwards.

Each command runs in its own process, in a temporary copy of the project with the digits as patch
grids. It alternates with the same command from another checkout, if one is given, and with the
import of torch's compiler, which every training needs and which is therefore the lower bound.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from common import PROJECT, arguments, copy_project, now, recipe, report

from selfie_pipeline.training.device import find_device

_STEPS = "pretrain.steps=2,pretrain.warmup_steps=1,resume=never"
COMMANDS = {
    "kedro run --help": ["run", "--help"],
    "kedro registry list": ["registry", "list"],
    "two steps of pretraining": [
        "run",
        "--pipeline=pretrain",
        f"--params={_STEPS},tracking.mlflow=never",
    ],
    "two steps of pretraining, with MLflow": ["run", "--pipeline=pretrain", f"--params={_STEPS}"],
}
FLOOR = "import torch._dynamo"


def run(command: list[str], project: Path, checkout: Path) -> float:
    """Run a command in the project, with a checkout's code.

    Returns:
        Seconds until a training has made its steps; nan if the command is none.
    """
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    steps_s = math.nan
    started = now()
    with subprocess.Popen(
        command,
        cwd=project,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if "steps done" in line:
                steps_s = now() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return steps_s


def measure(command: list[str], project: Path, checkout: Path) -> dict[str, float]:
    """Return a process's wall time and CPU time, and the time until its steps are made, seconds."""
    before, started = os.times(), now()
    steps_s = run(command, project, checkout)
    wall_s, after = now() - started, os.times()
    user_s = after.children_user - before.children_user
    system_s = after.children_system - before.children_system
    times = {
        "wall s": wall_s,
        "processor s": user_s + system_s,
        "until the steps are made, s": steps_s,
    }
    return {name: value for name, value in times.items() if not math.isnan(value)}


KEDRO = [sys.executable, "-m", "kedro"]


def main() -> None:
    """Measure the commands in turn, and report."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="processes of each command")
    parser.add_argument("--baseline", type=Path, help="another checkout, to compare with")
    options = parser.parse_args()
    checkouts = {"now": PROJECT}
    if options.baseline:
        checkouts["baseline"] = options.baseline.resolve()
    times: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for version, checkout in checkouts.items():
            project = copy_project(Path(folder, version), checkout)
            run([*KEDRO, "run", "--pipelines=ingest,patch"], project, checkout)
        for _ in range(options.rounds):
            for name, command in COMMANDS.items():
                for version, checkout in checkouts.items():
                    taken = measure([*KEDRO, *command], Path(folder, version), checkout)
                    times.setdefault(f"{name}, {version}", []).append(taken)
            floor = measure([sys.executable, "-c", FLOOR], Path(folder), PROJECT)
            times.setdefault(FLOOR, []).append(floor)
    result: dict[str, Any] = {}
    for name, measured in times.items():
        for unit in measured[0]:
            result[f"{name}: {unit}"] = median([one[unit] for one in measured])
    report(result, find_device(recipe("base").compute), options.json)


if __name__ == "__main__":
    main()
