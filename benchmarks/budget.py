"""Measures whether runs end within their time budgets.

    python benchmarks/budget.py --budgets 60s 90s 2min 4min
    python benchmarks/budget.py --env cifar10_small --params data.folder=FOLDER --budgets 10min

Each budget is tried by one `kedro run`, from the raw files to the report, in a copy of the project.
The time is that of the whole process, with the start of Python.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import arguments, copy_project, recipe, report

from selfie_pipeline.config import parse_duration
from selfie_pipeline.training.device import find_device

_PLAN = re.compile(r"budget of .*?: (pretrain\S+) ")


def run(env: str | None, params: str, budget: str) -> dict[str, Any]:
    """Run with a budget; return the time taken, the steps, and the load of the machine."""
    options = [f"--env={env}"] if env else []
    given = ",".join(filter(None, [params, f"budget={budget}"]))
    with tempfile.TemporaryDirectory() as folder:
        started, load = time.monotonic(), [os.getloadavg()[0]]
        done = subprocess.run(
            [sys.executable, "-m", "kedro", "run", *options, "--params", given],
            cwd=copy_project(Path(folder, "project")),
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - started
        load.append(os.getloadavg()[0])
    if done.returncode and "is too short" not in done.stderr:
        raise SystemExit(done.stderr[-2000:])
    plan = _PLAN.search(re.sub(r"\s*\n\s*", " ", done.stdout + done.stderr))
    return {
        f"{budget}: taken, s": round(seconds, 1),
        f"{budget}: taken/asked": seconds / parse_duration(budget),
        f"{budget}: steps": plan[1] if plan else done.stderr.splitlines()[-1],
        f"{budget}: load before and after": load,
    }


def main() -> None:
    """Run with each budget, and report the times."""
    parser = arguments(__doc__)
    parser.add_argument("--env", help="recipe; without it, the digits")
    parser.add_argument("--params", default="", help="parameters beside the budget")
    parser.add_argument("--budgets", nargs="+", default=["60s", "2min", "4min"])
    options = parser.parse_args()

    result: dict[str, Any] = {}
    for budget in options.budgets:
        result |= run(options.env, options.params, budget)
        print(result, file=sys.stderr)
    report(result, find_device(recipe(options.env or "base").compute), options.json)


if __name__ == "__main__":
    main()
