"""Measures how long commands take to start: wall time, and the processor's time.

    python benchmarks/startup.py --baseline ../earlier-checkout

Each command is a process of its own, in a temporary copy of the project with the digits as patch grids.
Beside it, in turn, runs the same command from another checkout, if one is given, and the import of
torch's compiler, which every training needs: the shortest start that PyTorch leaves.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import PROJECT, arguments, median, report, seconds

from selfie_pipeline.training.device import find_device

_ONE_STEP = "pretrain.steps=1,pretrain.warmup_steps=0,resume=never"
COMMANDS = {
    "kedro run --help": ["run", "--help"],
    "kedro registry list": ["registry", "list"],
    "one step of pretraining": [
        "run",
        "--pipeline=pretrain",
        f"--params={_ONE_STEP},tracking.mlflow=never",
    ],
    "one step of pretraining, with MLflow": ["run", "--pipeline=pretrain", f"--params={_ONE_STEP}"],
}
FLOOR = "import torch._dynamo"


def run(command: list[str], project: Path, checkout: Path) -> None:
    """Run a command in the project, with a checkout's code."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    subprocess.run(command, cwd=project, env=environment, check=True, capture_output=True)


def measure(command: list[str], project: Path, checkout: Path) -> tuple[float, float]:
    """Return a process's wall time and its processor time, in seconds."""
    before = os.times()
    wall_s = seconds(lambda: run(command, project, checkout))
    after = os.times()
    user_s = after.children_user - before.children_user
    return wall_s, user_s + after.children_system - before.children_system


def copy_project(folder: Path) -> Path:
    """Return a copy of the project's configuration, with the digits as patch grids."""
    project = folder / "project"
    shutil.copytree(PROJECT / "conf", project / "conf")
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(PROJECT / name, project)
    (project / "src").mkdir()
    run([*KEDRO, "run", "--pipelines=ingest,patch"], project, PROJECT)
    return project


KEDRO = [sys.executable, "-m", "kedro"]


def main() -> None:
    """Measure as the command line says."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="processes of each command")
    parser.add_argument("--baseline", type=Path, help="another checkout, to compare with")
    options = parser.parse_args()
    checkouts = {"": PROJECT} | ({" (baseline)": options.baseline} if options.baseline else {})
    times: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        project = copy_project(Path(folder))
        for _ in range(options.rounds):
            for name, command in COMMANDS.items():
                for suffix, checkout in checkouts.items():
                    measured = measure([*KEDRO, *command], project, checkout.resolve())
                    times.setdefault(name + suffix, []).append(measured)
            floor = measure([sys.executable, "-c", FLOOR], project, PROJECT)
            times.setdefault(FLOOR, []).append(floor)
    result: dict[str, Any] = {}
    for name, pairs in times.items():
        result[f"{name}: wall s"], result[f"{name}: processor s"] = map(
            median, zip(*pairs, strict=True)
        )
    report(result, find_device("cpu"), options.json)


if __name__ == "__main__":
    main()
