"""Faults from outside: full and read-only disks, few open files, other locales, clocks and paths.

`pytest -m slow tests/pipelines/test_faults.py`; the tests that mount file systems need root.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kedro.framework.session import session as kedro_session
from kedro.io.core import VERSION_FORMAT
from PIL import Image

pytestmark = pytest.mark.slow

STAGES = {
    "ingest": "",
    "patch": "",
    "pretrain": "pretrain.seed=1",
    "finetune": "seed=1",
    "baseline": "seed=1",
    "report": "",
    "tune": "",
    "experiment": "experiment.labeled_fracs=[0.1],experiment.seeds=[1]",
    "ratio": "experiment.seeds=[1]",
    "predict": "images=pictures",
    "embed": "",
    "export": "",
    "suggest": "",
}
"""All stages, with parameters that leave them something to do in a complete project."""


class Disk:
    """A small file system of its own for a project's data; mounting it needs root."""

    def __init__(self, data: Path) -> None:
        before = data.with_name("before")
        data.rename(before)
        data.mkdir()
        self.data = data
        self._mount("-t", "tmpfs", "-o", "size=64m", "tmpfs")
        shutil.copytree(before, data, dirs_exist_ok=True)
        shutil.rmtree(before)

    def _mount(self, *options: str) -> None:
        command = ["mount", *options, str(self.data)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            self.data.rmdir()
            pytest.skip(f"no file system can be mounted: {done.stderr.strip()}")

    def leave(self, free: int) -> None:
        """Fill the disk up but for some bytes."""
        (self.data / "filler").unlink(missing_ok=True)
        status = os.statvfs(self.data)
        with (self.data / "filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - free)

    def make_read_only(self) -> None:
        self._mount("-o", "remount,ro")

    def release(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.data)], check=True)


@pytest.fixture
def disk(finished: Any) -> Iterator[Disk]:
    (finished.path / "pictures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(finished.path / "pictures" / "one.png")
    disk = Disk(finished.path / "data")
    yield disk
    disk.release()


def stored(project: Any) -> dict[str, bytes]:
    """Return what a run may read: no hidden files, and nothing that a resumed run continues."""
    own = (".", "checkpoints", "tuning", "filler")
    return {
        name: content
        for name, content in project.files().items()
        if not any(part.startswith(own) for part in Path(name).parts)
    }


@pytest.mark.parametrize(("stage", "params"), STAGES.items(), ids=STAGES)
def test_a_full_disk_ends_a_stage_in_one_line(
    finished: Any, disk: Disk, stage: str, params: str
) -> None:
    """With more room each time, until there is enough: it fills up at another byte each time."""
    failures, free = 0, 0
    while True:
        before = stored(finished)
        disk.leave(free)
        result = finished.kedro_run(f"--pipeline={stage}", f"--params={params}")
        if result.exit_code == 0:
            break
        (line,) = result.stderr.splitlines()
        assert line.startswith("Error: "), line
        assert "space" in line, line
        after = stored(finished)
        assert {name: after.get(name) for name in before} == before
        assert all(after.values()), "an empty file"
        failures, free = failures + 1, 2**8 * free or 2**16

    assert failures
    assert not [path for path in disk.data.rglob(".partial-*") if path.parent.name == "data"]


def test_read_only_data_are_refused_in_one_line_and_stay_readable(
    finished: Any, disk: Disk
) -> None:
    before = finished.files()
    disk.make_read_only()

    for stage, params in STAGES.items():
        error = finished.refuse(f"--pipeline={stage}", f"--params={params}")
        assert "Read-only file system" in error

    assert finished.files() == before
    assert finished.load("encoder").digest()


PLACE = 'it\'s "Prüfung" 图 $HOME'
CLASSES = ("Größe", "it's 图")
ALL_STAGES = "ingest,patch,pretrain,finetune,baseline,report"
ENVIRONMENT = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": None, "PYTHONIOENCODING": None}


def allow_few_files() -> None:
    """Allow a process, and those that it starts, this number of open files."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def add_pictures(folder: Path) -> None:
    """Add pictures of two classes, in both splits."""
    random = np.random.default_rng(0)
    for number in range(40):
        split = "test" if number < 8 else "train"
        path = folder / split / CLASSES[number % 2] / f"Bild {number}'s.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)


def run_restricted(project: Any, home: str | None, *options: str) -> None:
    """Run a command with at most 64 open files, in the locale C and with this $HOME."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **ENVIRONMENT, "HOME": home}
    done = subprocess.run(
        [sys.executable, "-m", "kedro", "run", "--env=tiny", *options],
        cwd=project.path,
        env={key: value for key, value in environment.items() if value is not None},
        preexec_fn=allow_few_files,
        capture_output=True,
        check=False,
    )
    told = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, told
    assert "Traceback" not in told


def test_few_files_no_locale_no_home_and_an_odd_path_change_nothing(
    complete_run: Any, tmp_path: Path
) -> None:
    project = type(complete_run.project)(tmp_path / PLACE)
    shutil.copytree(complete_run.project.path, project.path)
    few = "experiment.labeled_fracs=[0.1],experiment.seeds=[0],tune.trials=1"

    params = f"{few},compute.cells_at_once=2"
    run_restricted(project, None, "--pipelines=tune,cells", f"--params={params}")

    assert set(project.load("experiment_cells", few)["status"]) == {"done"}


def test_images_and_classes_with_odd_names_and_an_impossible_home_change_nothing(
    complete_run: Any, tmp_path: Path
) -> None:
    project = type(complete_run.project)(tmp_path / PLACE)
    shutil.copytree(complete_run.project.path, project.path, ignore=lambda *_: ["data"])
    add_pictures(project.path / "pictures")
    pictures = "data.source=image_folder,data.folder=pictures,labeled_frac=0.5"

    for pipelines, params in (
        (ALL_STAGES, pictures),
        ("predict,embed,export,suggest", f"{pictures},images=pictures"),
    ):
        options = (f"--pipelines={pipelines}", f"--params={params}")
        run_restricted(project, "/dev/null/home", *options)

    assert set(project.load("image_predictions")["file"].str.rsplit("/").str[-2]) == set(CLASSES)


def test_after_the_clock_was_set_back_the_newest_is_still_the_latest(
    finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version is the time at which Kedro's session began."""
    before = datetime.strptime(finished.versions("encoder")[0], VERSION_FORMAT)
    an_hour_earlier = (before - timedelta(hours=1)).strftime(VERSION_FORMAT)[:-4] + "Z"
    monkeypatch.setattr(kedro_session, "generate_timestamp", lambda: an_hour_earlier)

    finished.run("pretrain", params="pretrain.seed=1")
    finished.run("finetune")

    encoder = finished.load("encoder")
    assert encoder.provenance["configuration"]["pretrain"]["seed"] == 1
    assert finished.load("selfie_metrics")["provenance"]["encoder"] == encoder.digest()
