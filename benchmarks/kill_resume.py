"""Kill trainings at random moments, resume them, and compare with an undisturbed run.

    python benchmarks/kill_resume.py --kills 30

Pretraining and finetuning run as processes of `kedro run`, on the digits, in a copy of the project.
Each is killed with SIGKILL some random time after its first checkpoint is there, started again,
killed again, and so on. The weights, histories, predictions and metrics must be the same files,
byte for byte, as those of a run that nobody disturbed.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import PROJECT, arguments, recipe, report

from selfie_pipeline.training.device import find_device

RESULTS = ("encoder.safetensors", "classifier.safetensors", "history.csv", "metrics.json")
STAGES = ("pretrain", "finetune")


def copy_project(folder: Path) -> Path:
    """The project without its data, where `kedro run` finds everything it needs."""
    project = folder / "project"
    shutil.copytree(PROJECT / "conf", project / "conf")
    shutil.copytree(PROJECT / "src", project / "src")
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(PROJECT / name, project)
    return project


def command(stage: str, steps: int) -> list[str]:
    """A stage with a checkpoint every few steps."""
    params = ",".join(
        f"{name}.{setting}"
        for name in ("pretrain", "finetune")
        for setting in (f"steps={steps}", "warmup_steps=10", "checkpoint_every=7", "batch_size=48")
    )
    return [sys.executable, "-m", "kedro", "run", f"--pipelines={stage}", "--params", params]


def run(project: Path, stage: str, steps: int) -> None:
    """Run a stage to its end."""
    subprocess.run(command(stage, steps), cwd=project, check=True, capture_output=True)


def checkpoints(project: Path) -> set[Path]:
    """All checkpoints that are there."""
    return set(project.glob("data/06_models/**/checkpoints/step-*.json"))


def run_killed(project: Path, stage: str, steps: int, kills: int, moment: random.Random) -> int:
    """Run a stage to its end through a number of kills; return how many there were."""
    done = 0
    while True:
        before = checkpoints(project)
        process = subprocess.Popen(
            command(stage, steps),
            cwd=project,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while process.poll() is None and not checkpoints(project) - before:
            time.sleep(0.01)
        if done < kills:
            time.sleep(moment.uniform(0, 0.5))
        if done == kills or process.poll() is not None:
            if process.wait():
                raise SystemExit(f"{stage} failed after {done} kills")
            return done
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        done += 1


def digests(project: Path) -> dict[str, str]:
    """SHA-256 of the newest version of every result, by the data set's path."""
    found = {}
    for name in RESULTS:
        for version in sorted(project.glob(f"data/**/*{name}/*/*{name}")):
            key = str(version.parent.parent.relative_to(project))
            found[key] = hashlib.sha256(version.read_bytes()).hexdigest()
    return found


def main() -> None:
    """Kill, resume, compare and report."""
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=150, help="steps of each training")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()

    moment = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        project = copy_project(Path(folder))
        run(project, "ingest,patch", options.steps)
        for stage in STAGES:
            run(project, stage, options.steps)
        undisturbed = digests(project)
        kills = {
            stage: run_killed(project, stage, options.steps, share, moment)
            for stage, share in zip(
                STAGES, (options.kills - options.kills // 2, options.kills // 2), strict=True
            )
        }
        killed = digests(project)
    same = [name for name in undisturbed if killed.get(name) == undisturbed[name]]
    device = find_device(recipe("base").compute)
    result = {f"kills of {stage}": count for stage, count in kills.items()}
    result |= {"results compared": len(undisturbed), "equal byte for byte": len(same)}
    report(result, device, options.json)
    if len(same) < len(undisturbed):
        raise SystemExit("different: " + ", ".join(sorted(set(undisturbed) - set(same))))


if __name__ == "__main__":
    main()
