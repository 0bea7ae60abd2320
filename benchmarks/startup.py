"""Measures the start-up time of commands: wall time and CPU time.

    python benchmarks/startup.py --baseline ../earlier-checkout

Each command runs in its own process, in a temporary copy of the project with the digits as patch
grids. It alternates with the same command from another checkout, if one is given, and with the
import of torch's compiler, which every training needs and which is therefore the lower bound.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import PROJECT, arguments, median, recipe, report, seconds

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


def run(command: list[str], project: Path, checkout: Path) -> None:
    """Run a command in the project, with a checkout's code."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    subprocess.run(command, cwd=project, env=environment, check=True, stdout=subprocess.DEVNULL)


def measure(command: list[str], project: Path, checkout: Path) -> tuple[float, float]:
    """Return a process's wall time and CPU time, seconds."""
    before = os.times()
    wall_s = seconds(lambda: run(command, project, checkout))
    after = os.times()
    user_s = after.children_user - before.children_user
    return wall_s, user_s + after.children_system - before.children_system


def copy_project(checkout: Path, project: Path) -> None:
    """Copy a checkout's configuration, and make patch grids of the digits there."""
    shutil.copytree(checkout / "conf", project / "conf")
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(checkout / name, project)
    (project / "src").mkdir()
    run([*KEDRO, "run", "--pipelines=ingest,patch"], project, checkout)


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
    times: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for version, checkout in checkouts.items():
            copy_project(checkout, Path(folder, version))
        for _ in range(options.rounds):
            for name, command in COMMANDS.items():
                for version, checkout in checkouts.items():
                    measured = measure([*KEDRO, *command], Path(folder, version), checkout)
                    times.setdefault(f"{name}, {version}", []).append(measured)
            floor = measure([sys.executable, "-c", FLOOR], Path(folder), PROJECT)
            times.setdefault(FLOOR, []).append(floor)
    result: dict[str, Any] = {}
    for name, pairs in times.items():
        result[f"{name}: wall s"], result[f"{name}: processor s"] = map(
            median, zip(*pairs, strict=True)
        )
    report(result, find_device(recipe("base").compute), options.json)


if __name__ == "__main__":
    main()
