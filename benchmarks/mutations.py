"""Mutation tests: measures how many of a seeded sample of faults in src/ the tests notice.

    python benchmarks/mutations.py --json docs/results/mutations/figures.json
    python benchmarks/mutations.py --again docs/results/mutations/figures.json

For each fault, only the test module that mirrors the changed one runs (`MIRRORS` has the
exceptions).

mutmut 3 skips decorated functions and draws no sample; cosmic-ray starts a process for each fault,
which imports torch, and has no mutation that removes a statement. Here the tests are collected
once, and a fork for each fault replaces the code of the changed function. Faults outside of
functions, and faults that were not noticed, are tried in a process that imports the package with
the fault.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from _pytest.main import pytest_runtestloop
from faults import Fault, find_faults

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "src" / "selfie_pipeline"
FOLDERS = ["models", "training", "sources", "datasets", "evaluation"]
EXCLUDED = ("training/distributed/", "training/processes.py")
"""Modules that are not mutated, because their tests start processes and Ray clusters: minutes."""
MIRRORS = {
    "training/engine.py": ("training/test_loop.py",),
    "locks.py": ("test_locks.py", "training/test_checkpoints.py", "training/test_trials.py"),
    "training/search.py": ("training/test_trials.py",),
    "training/state.py": (
        "training/test_state.py",
        "training/test_loop.py",
        "training/test_waiting.py",
    ),
    "training/tasks.py": ("training/test_loop.py", "training/test_finetuning.py"),
    "training/data/transfer.py": ("training/test_transfer.py",),
    "sources/__init__.py": ("sources/test_open_source.py",),
    "sources/image_folder.py": ("sources/test_image_folder.py", "sources/test_label_tables.py"),
    "sources/columns.py": ("sources/test_parquet.py", "sources/test_label_tables.py"),
    "sources/image_set.py": ("sources/test_open_source.py", "sources/test_webdataset.py"),
    "sources/listing.py": ("sources/test_image_folder.py", "sources/test_label_tables.py"),
    "sources/repeats.py": ("sources/test_folders.py",),
    "sources/shards.py": ("sources/test_webdataset.py", "sources/test_parquet.py"),
    "datasets/patch_grid_manifest.py": ("datasets/test_patch_grids.py",),
    "datasets/patch_grid_shards.py": ("datasets/test_patch_grids.py",),
    "report/image_grid.py": ("report/test_misclassified.py", "report/test_contact_sheet.py"),
    "report/style.py": ("report/test_figures.py", "report/test_page.py"),
    "report/templates.py": ("report/test_page.py",),
}
"""Test modules of the modules that have none of their own name."""
LIBRARIES = (
    "torch torchvision timm.layers numpy pandas scipy.stats sklearn.datasets sklearn.manifold "
    "statsmodels.api matplotlib.pyplot kedro.framework.session pydantic optuna pyarrow.parquet "
    "safetensors.torch PIL.Image hypothesis onnx onnxruntime onnxscript joblib jinja2"
)
"""Libraries that are imported once, before all forks."""
_HARNESS_FAILED = 99
UNTRIED = "untried: the tests fail without a fault"


def forked(action: Callable[[], Any], seconds: float) -> tuple[Any, float]:
    """Run an action in a fork, with a limit on its CPU time and a wide one on its wall time.

    Returns:
        The action's result, or "no end" if it was killed, and its CPU time in seconds.
    """
    with tempfile.TemporaryFile("w+") as answer:
        if (child := os.fork()) == 0:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1,) * 2)
            try:
                json.dump(action(), answer)
                answer.flush()
                os._exit(0)
            except BaseException:
                traceback.print_exc(file=sys.__stderr__)
            finally:
                os._exit(_HARNESS_FAILED)
        end = time.monotonic() + 300 + 10 * seconds
        while not (ended := os.wait4(child, os.WNOHANG))[0]:
            time.sleep(0.01)
            if time.monotonic() > end:
                os.killpg(child, signal.SIGKILL)
        with suppress(ProcessLookupError):  # processes that it left behind
            os.killpg(child, signal.SIGKILL)
        if os.waitstatus_to_exitcode(ended[1]) == _HARNESS_FAILED:
            raise RuntimeError("the attempt itself failed")
        answer.seek(0)
        text = answer.read()
        return json.loads(text) if text else "no end", ended[2].ru_utime + ended[2].ru_stime


class Attempts:
    """A pytest plugin that records the first failure, and tries faults in forks of the session."""

    def __init__(
        self, package: Path, faults: Sequence[Fault] = (), minutes: float = math.inf
    ) -> None:
        self.package = package
        self.faults = faults
        self.end = time.monotonic() + 60 * minutes
        self.failed: str | None = None
        self.noticed: list[str | None] = []
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the first failure."""
        if report.failed:
            self.failed = self.failed or report.nodeid

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Try the faults, if there are any; first run each module's tests without a fault."""
        if not self.faults:
            return None
        collected = session.items
        for fault in self.faults:
            paths = test_paths(fault.module)
            session.items = [item for item in collected if item.path in paths]
            if time.monotonic() > self.end:
                break
            if fault.module not in self.seconds:
                failed, self.seconds[fault.module] = forked(lambda: self._run(session), 600)
                if failed or not session.items:
                    self.seconds[fault.module] = math.nan
                    print(f"without a fault, {fault.module}: {failed}", file=LOG, flush=True)
            if math.isnan(self.seconds[fault.module]):
                self.noticed.append(UNTRIED)
                continue
            with fault.on_disk(self.package):  # also for processes that tests start
                noticed, _ = forked(
                    lambda: self._run(session, fault),  # noqa: B023
                    limit(self.seconds[fault.module]),
                )
            self.noticed.append(noticed)
            print(json.dumps({**fault.name, "noticed_by": noticed}), file=LOG, flush=True)
        return True

    def _run(self, session: pytest.Session, fault: Fault | None = None) -> str | None:
        if fault and not fault.in_memory(str(self.package / fault.module)):
            return None
        try:
            pytest_runtestloop(session)
        except session.Failed:
            pass
        except BaseException as error:  # a test ended the whole run
            return repr(error)
        return self.failed


def test_paths(module: str) -> list[Path]:
    """Return the files of the tests that mirror a module."""
    folder, name = os.path.split(module)
    return [PROJECT / "tests" / path for path in MIRRORS.get(module, (f"{folder}/test_{name}",))]


def limit(seconds: float) -> float:
    """Return the limit of CPU time, s, for tests that take so long without a fault."""
    return 5 + 3 * seconds


def run_tests(modules: Iterable[str], attempts: Attempts) -> Attempts:
    """Run the tests that mirror these modules in this process, up to the first failure."""
    paths = list(dict.fromkeys(str(path) for module in modules for path in test_paths(module)))
    options = ["-x", "-n0", "-pno:cacheprovider", f"--basetemp={attempts.package.parents[1]}/t"]
    options.append("-Wignore::pytest.PytestAssertRewriteWarning")
    code = pytest.main([*options, *paths], plugins=[attempts])
    if not attempts.faults and attempts.failed is None and code != pytest.ExitCode.OK:
        attempts.failed = f"pytest: {code}"
    return attempts


def try_faults(faults: list[Fault], package: Path, minutes: float) -> list[str | None]:
    """Return for each fault the test that noticed it, or None; only for the first if time is up."""

    def in_forks() -> tuple[list[str | None], dict[str, float]]:
        attempts = run_tests((fault.module for fault in faults), Attempts(package, faults, minutes))
        return attempts.noticed, attempts.seconds

    (noticed, seconds), _ = forked(in_forks, 100_000)
    for index, fault in enumerate(faults[: len(noticed)]):
        if noticed[index] is None:
            with fault.on_disk(package):
                noticed[index], _ = forked(
                    lambda: run_tests([fault.module], Attempts(package)).failed,  # noqa: B023
                    30 + limit(seconds[fault.module]),
                )
            print(json.dumps({**fault.name, "again": noticed[index]}), file=LOG, flush=True)
    return noticed


def choose(options: argparse.Namespace) -> list[Fault]:
    """Return the faults to try: a sample, or the unnoticed ones of a record."""
    modules = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
    faults = [
        fault
        for module in modules
        if module.startswith(tuple(options.modules)) and not module.startswith(EXCLUDED)
        for fault in find_faults(PACKAGE, module)
    ]
    print(f"{len(faults)} faults possible", flush=True)
    if options.again:
        known = json.loads(options.again.read_text("utf-8"))["faults"]
        missed = [fault for fault in known if not fault["noticed_by"]]
        return [fault for fault in faults if any(fault.name.items() <= m.items() for m in missed)]
    return random.Random(options.seed).sample(faults, min(options.count, len(faults)))


def report(faults: list[Fault], noticed: list[str | None], options: argparse.Namespace) -> None:
    """Print how many faults were tried and noticed in each folder; write that and the faults."""
    folders: dict[str, dict[str, int]] = {}
    pairs = [(f, by) for f, by in zip(faults, noticed, strict=False) if by != UNTRIED]
    for fault, by in pairs:
        for folder in (fault.module.split("/")[0], "all"):
            numbers = folders.setdefault(folder, {"tried": 0, "noticed": 0})
            numbers["tried"] += 1
            numbers["noticed"] += by is not None
    for folder, numbers in folders.items():
        print(f"{folder:12} {numbers['noticed']} of {numbers['tried']} noticed")
    if options.json:
        git = ["git", "-C", str(PROJECT), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
        tried = [fault.name | {"noticed_by": by} for fault, by in pairs]
        result = {"commit": commit, "seed": options.seed, "folders": folders, "faults": tried}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")


def main() -> None:
    """Choose faults, try them, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", nargs="+", default=FOLDERS, help="beginnings of their paths")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="for the first attempts")
    parser.add_argument("--again", type=Path, help="a record; its missed faults are tried again")
    parser.add_argument("--json", type=lambda name: Path(name).absolute(), help="file to write to")
    options = parser.parse_args()
    faults = choose(options)
    os.chdir(PROJECT)
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder, "src", "selfie_pipeline")
        shutil.copytree(PACKAGE, package)
        sys.path.insert(0, str(package.parent))
        os.environ["PYTHONPATH"] = str(package.parent)
        for name in LIBRARIES.split():
            importlib.import_module(name)
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # in processes that tests start
        noticed = try_faults(faults, package, options.minutes)
    report(faults, noticed, options)


if __name__ == "__main__":
    LOG = os.fdopen(os.dup(2), "w")  # pytest takes the others
    main()
