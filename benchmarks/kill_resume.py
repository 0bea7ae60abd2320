"""Kills each stage at random moments, resumes it, and compares it with an undisturbed run.

    python benchmarks/kill_resume.py --kills 500 --json docs/results/benchmarks/kill_resume.json

The data are the digits, as image files in class folders, in a copy of the project. Each stage runs
in its own process. It is killed with SIGKILL, together with all processes that it has started, at a
random moment of the processor time that the undisturbed run took. Then the same run is started and
killed again, and so on, until one ends before its moment. All files of all versions must then have
the bytes of the undisturbed run's, and the stage starts from its first data again. The processes
are forked from this one, which has imported everything, so that the kills fall into the work and
not into the imports.

Of a training on two Ray workers, one worker at a time is killed, on a cluster that stays up, at a
random moment after both have started.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import multiprocessing
import os
import pkgutil
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pandas as pd
import ray
from common import arguments, copy_project, recipe, report
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.runner import SequentialRunner
from PIL import Image

import selfie_pipeline
from selfie_pipeline.datasets import patch_grid_shards
from selfie_pipeline.pipelines.predict import blocks
from selfie_pipeline.sources import decoding
from selfie_pipeline.sources.digits import Digits
from selfie_pipeline.training.device import find_device
from selfie_pipeline.training.distributed.cluster import RAY_ENVIRONMENT

FORK = multiprocessing.get_context("fork")
CLUSTER = uuid.uuid4().hex
"""Environment variable's value that marks the processes of this benchmark's Ray cluster."""
RAY_WORKERS = 2
VERSION = re.compile(r"/\d{4}-\d\d-\d\dT[\d.]+Z")
UNCOMPARED = {"studies.db"}
"""Optuna's record of the trials, which has times; `tuning_trials.csv` is compared instead."""

_TRAINING = {"steps": 20, "batch_size": 8, "warmup_steps": 2, "checkpoint_every": 2}
PARAMETERS: dict[str, Any] = {
    "labeled_frac": 0.2,
    "model": {"stem": "small", "width": 8, "attention": {"blocks": 1, "heads": 2}},
    "patch": {"canvas_size": 16, "image_size": 16, "patch_size": 4},
    "pretrain": {**_TRAINING, "log_every": 2},
    "finetune": {**_TRAINING, "log_every": 2},
    "experiment": {"labeled_fracs": [0.2, 0.5], "seeds": [0]},
    "tune": {"trials": 3},
    "compute": {"accelerator": "cpu", "cells_at_once": 1},
    "tracking": {"mlflow": "never"},
}
"""Small networks and images, so that many kills take little time, with frequent checkpoints."""


@dataclass(frozen=True)
class Stage:
    """A stage to kill.

    Attributes:
        name: Name in the results.
        pipeline: The pipeline.
        after: The stage whose data it starts from.
        kills: Its share of every 500 kills.
        params: Parameters of this stage only.
    """

    name: str
    pipeline: str
    after: str | None
    kills: int
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def is_ray(self) -> bool:
        """True if the stage trains on a Ray cluster."""
        return "compute" in self.params


@dataclass(frozen=True)
class Undisturbed:
    """The result of an undisturbed run.

    Attributes:
        seconds: Its processor time; on Ray the wall time from the start of both workers to the end.
        digests: Digests of its files, as returned by `digests`.
    """

    seconds: float
    digests: dict[str, set[str]]


_RAY = {"accelerator": "cpu", "engine": "ray", "workers": RAY_WORKERS, "max_failures": 1000}
_ONE_SEARCH = {"labeled_fracs": [0.2], "seeds": [0], "arms": ["selfie"]}
STAGES = (
    Stage("ingest", "ingest", None, 50),
    Stage("patch", "patch", "ingest", 90),
    Stage("pretrain", "pretrain", "patch", 100),
    Stage("finetune", "finetune", "pretrain", 90),
    Stage("predict", "predict", "finetune", 40),
    Stage("export", "export", "finetune", 20),
    Stage("tune", "tune", "pretrain", 40, {"experiment": _ONE_SEARCH}),
    Stage("cells", "cells", "pretrain", 40),
    Stage("experiment", "experiment", "cells", 10),
    Stage("two Ray workers", "pretrain", "patch", 20, {"compute": _RAY}),
)


def write_images(folder: Path, count: int = 300) -> None:
    """Write digits as image files, train/CLASS/ and test/CLASS/."""
    source = Digits()
    samples = source.samples()
    pixels = [image for chunk in source.images(samples, 48) for image in chunk.images]
    for row in samples.iloc[:: len(samples) // count].itertuples():
        split = "test" if row.split == "test" else "train"
        path = folder / split / str(row.class_name) / f"{row.Index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[row.Index]).save(path)


class Trial:
    """A copy of the project, in which one stage at a time is run, killed and compared."""

    def __init__(self, folder: Path, moment: random.Random) -> None:
        """Make the copy and the image files, and import everything that a run needs."""
        self.folder, self.moment = folder, moment
        self.project = copy_project(folder / "project")
        write_images(folder / "images")
        bootstrap_project(self.project)
        for module in pkgutil.walk_packages(selfie_pipeline.__path__, "selfie_pipeline."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        # Small chunks and shards, so that a few images fill several.
        decoding.CHUNK_BYTES = 2**14
        patch_grid_shards.SHARD_BYTES = 2**16
        patch_grid_shards.PROGRESS_INTERVAL_S = 0.0
        blocks.BLOCK_FILES = 8

    def restore_data(self, stage: Stage) -> None:
        """Restore the data that the stage starts from."""
        shutil.rmtree(self.project / "data", ignore_errors=True)
        if stage.after:
            shutil.copytree(self.folder / stage.after, self.project / "data")

    def start(self, stage: Stage) -> BaseProcess:
        """Start the stage in a new process group."""
        process = FORK.Process(target=self._run, args=(stage,))
        process.start()
        os.setpgid(process.pid or 0, process.pid or 0)
        return process

    def _run(self, stage: Stage) -> None:
        """Run the stage as `kedro run` does, in the child process."""
        with (self.folder / "log").open("w") as log:
            os.dup2(log.fileno(), sys.stdout.fileno())
            os.dup2(log.fileno(), sys.stderr.fileno())
        os.chdir(self.project)
        images = {"data": {"folder": str(self.folder / "images"), "name": "digits"}}
        images |= {"images": str(self.folder / "images" / "test")}
        params = PARAMETERS | images | stage.params
        with KedroSession.create(self.project, env="image_folder", runtime_params=params) as run:
            run.run(pipeline_names=[stage.pipeline], runner=SequentialRunner())

    def ended(self, process: BaseProcess, stage: Stage) -> bool:
        """Return True if the stage has ended; raise an error if it failed."""
        if process.exitcode:
            log = (self.folder / "log").read_text(errors="replace")
            raise SystemExit(f"{stage.name} failed with {process.exitcode}: {log[-5000:]}")
        return process.exitcode == 0

    def undisturbed(self, stage: Stage) -> Undisturbed:
        """Run the stages it needs, then the stage; keep its data for the stages after it."""
        for earlier in STAGES:
            if earlier.name == stage.after and not (self.folder / earlier.name).exists():
                self.undisturbed(earlier)
        self.restore_data(stage)
        before = processor_time_of_children()
        process = self.start(stage)
        if stage.is_ray:
            while process.exitcode is None and len(train_workers()) < RAY_WORKERS:
                time.sleep(0.02)
        started = time.monotonic()
        process.join()
        seconds = time.monotonic() - started
        if not stage.is_ray:
            seconds = processor_time_of_children() - before
        self.ended(process, stage)
        shutil.copytree(self.project / "data", self.folder / stage.name)
        return Undisturbed(seconds, digests(self.project))

    def killed(self, stage: Stage, seconds: float, kills: int) -> int:
        """Run the stage to its end, with at most so many kills; return their number."""
        self.restore_data(stage)
        done = 0
        while done < kills:
            process = self.start(stage)
            moment = self.moment.uniform(0, seconds)
            while process.exitcode is None and processor_time(process) < moment:
                process.join(0.01)
            if self.ended(process, stage):
                return done
            os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
            done += 1
        process = self.start(stage)
        process.join()
        self.ended(process, stage)
        return done

    def workers_killed(self, stage: Stage, seconds: float, kills: int) -> int:
        """Run the stage to its end, killing one Ray worker at a time; return how many died."""
        self.restore_data(stage)
        done, before = 0, set(train_workers())
        process = self.start(stage)
        while done < kills:
            while process.exitcode is None and len(set(train_workers()) - before) < RAY_WORKERS:
                process.join(0.02)
            process.join(self.moment.uniform(0, seconds))
            workers = sorted(set(train_workers()) - before)
            if process.exitcode is not None or not workers:
                break
            os.kill(self.moment.choice(workers), signal.SIGKILL)
            before |= set(workers)
            done += 1
        process.join()
        self.ended(process, stage)
        return done


def processor_time(process: BaseProcess) -> float:
    """Return a process's CPU time, seconds; wall time depends on the machine's other processes."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def processor_time_of_children() -> float:
    """Return the CPU time of all child processes that have ended, seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def train_workers() -> list[int]:
    """Return the process ids of the training workers of this benchmark's cluster."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            trains = b"RayTrainWorker" in (folder / "cmdline").read_bytes()
            if trains and CLUSTER.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue  # it has ended, or belongs to another user
    return found


def _keep_cluster(connection: Connection) -> None:
    """Start a cluster, send its address, and stop it on the next message, in a child process."""
    os.environ |= {**RAY_ENVIRONMENT, "RAY_AUTH_MODE": "disabled", "SELFIE_KILL_RESUME": CLUSTER}
    options = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
    ray.init(address="local", num_cpus=2 * RAY_WORKERS, **options)
    connection.send(ray.get_runtime_context().gcs_address)
    connection.recv()
    ray.shutdown()


@contextmanager
def cluster() -> Iterator[None]:
    """Run a Ray cluster on this machine, in a child process."""
    here, there = FORK.Pipe()
    keeper = FORK.Process(target=_keep_cluster, args=(there,))
    keeper.start()
    os.environ["RAY_ADDRESS"] = here.recv()
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    try:
        yield
    finally:
        here.send(None)
        keeper.join()


def digests(project: Path) -> dict[str, set[str]]:
    """Return the SHA-256 of each file in all its versions, by its path without the version."""
    found: dict[str, set[str]] = {}
    for path in sorted((project / "data").rglob("*")):
        inside = path.relative_to(project / "data")
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.is_file() and not hidden and path.name not in UNCOMPARED:
            key = VERSION.sub("", inside.as_posix())
            found.setdefault(key, set()).add(hashlib.sha256(content(path)).hexdigest())
    return found


def differences(found: dict[str, set[str]], expected: dict[str, set[str]]) -> Iterator[str]:
    """Yield the names of files that are missing, left over, or have other bytes."""
    for name in found.keys() | expected.keys():
        if name not in found:
            yield f"{name} (missing)"
        elif name not in expected:
            yield f"{name} (left over)"
        elif found[name] != expected[name]:
            yield name


def content(path: Path) -> bytes:
    """Return the compared part of a file, which excludes times and the status of cells."""
    if path.name == "experiment_cells.csv":
        return pd.read_csv(path).drop(columns=["seconds", "status"]).to_csv().encode()
    return path.read_bytes()


def try_stage(trial: Trial, stage: Stage, kills: int) -> dict[str, Any]:
    """Kill a stage so many times, and return its row of the results."""
    expected = trial.undisturbed(stage)
    row = {"kills": 0, "runs": 0, "files": len(expected.digests), "different": set()}
    run_killed = trial.workers_killed if stage.is_ray else trial.killed
    while row["kills"] < kills:
        row["kills"] += run_killed(stage, expected.seconds, kills - row["kills"])
        row["runs"] += 1
        found = digests(trial.project)
        row["different"] |= set(differences(found, expected.digests))
    row |= {"different": sorted(row["different"]), "seconds": round(expected.seconds, 2)}
    print(f"{stage.name:16}", row, flush=True)
    return row


def main() -> None:
    """Kill and resume each stage, compare it, and report."""
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--stages", nargs="+", default=[stage.name for stage in STAGES])
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder), random.Random(options.seed))
        for stage in STAGES:
            if stage.name in options.stages:
                kills = math.ceil(options.kills * stage.kills / 500)
                with cluster() if stage.is_ray else nullcontext():
                    rows[stage.name] = try_stage(trial, stage, kills)
    print(pd.DataFrame(rows).T.to_string())
    result = {
        "kills": sum(row["kills"] for row in rows.values()),
        "runs compared": sum(row["runs"] for row in rows.values()),
        "different": sum(len(row["different"]) for row in rows.values()),
        "stages": rows,
    }
    report(result, find_device(recipe("base").compute), options.json)
    if result["different"]:
        raise SystemExit("not the bytes of the undisturbed run")


if __name__ == "__main__":
    main()
