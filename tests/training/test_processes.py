"""Tests of jobs that run side by side in processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from selfie_pipeline.config import UserError
from selfie_pipeline.datasets.atomic import MissingVersionError, missing_version_error
from selfie_pipeline.training.jobs import Job, WorkerDiedError
from selfie_pipeline.training.processes import run_in_processes
from selfie_pipeline.training.signals import StopRequest, TrainingInterrupted

pytestmark = pytest.mark.slow


def double(number: int) -> int:
    return 2 * number


def describe_process() -> tuple[int, int]:
    return os.getpid(), torch.get_num_threads()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse() -> None:
    raise UserError("the disk is full")


def miss() -> None:
    raise missing_version_error(Path("encoder"), ["v2", "v1"])


def fail() -> None:
    raise ZeroDivisionError


def train(folder: Path) -> None:
    """Do as a training does: note the signal, and end after the step."""
    with StopRequest() as stop:
        (folder / f"begun-{os.getpid()}").touch()
        while not stop.poll():
            time.sleep(0.05)
        (folder / f"saved-{os.getpid()}").touch()
        raise TrainingInterrupted("stopped", signal.SIGTERM)


def receive_twice() -> str | None:
    """Receive a scheduler's signal to all processes, and that of the parent."""
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        return stop.received.name if stop.received else None


def die_with_parent() -> None:
    """Die of a signal that the parent receives, too."""
    os.kill(os.getppid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGKILL)


def call(function: Callable[[], object]) -> Job[object]:
    """A job of one call."""
    return (yield function)


def quadruple(number: int) -> Job[int]:
    """A job whose second call depends on the result of the first."""
    once: int = yield partial(double, number)
    twice: int = yield partial(double, once)
    return twice


def survive(function: Callable[[], object]) -> Job[str]:
    try:
        yield function
    except WorkerDiedError as reason:
        return str(reason)
    return "alive"


def wait_for_files(folder: Path, pattern: str, count: int) -> list[Path]:
    deadline = time.monotonic() + 120
    while len(found := list(folder.glob(pattern))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_results_are_in_order_and_calls_may_depend_on_results() -> None:
    assert run_in_processes([quadruple(n) for n in range(5)], 2, 1) == [0, 4, 8, 12, 16]


def test_processes_are_reused_and_have_the_threads() -> None:
    found = run_in_processes([call(describe_process) for _ in range(4)], 2, 3)

    assert len({pid for pid, _ in found}) == 2  # type: ignore[attr-defined]
    assert {threads for _, threads in found} == {3}  # type: ignore[attr-defined]
    assert os.getpid() not in dict(found)  # type: ignore[call-overload]


def test_a_killed_process_ends_its_job_alone() -> None:
    jobs = [survive(die), survive(partial(double, 1)), survive(partial(double, 2))]

    killed, *others = run_in_processes(jobs, 2, 1)

    assert killed.startswith("its process was killed, perhaps for lack of memory")
    assert others == ["alive", "alive"]


def test_a_second_signal_does_not_end_a_process_that_saves() -> None:
    assert run_in_processes([call(receive_twice)], 1, 1) == ["SIGTERM"]


def test_a_process_that_died_of_the_signal_that_stops_all_is_no_lack_of_memory() -> None:
    told: list[str] = []

    def job() -> Job[None]:
        try:
            yield die_with_parent
        except WorkerDiedError as reason:
            told.append(str(reason))

    with pytest.raises(TrainingInterrupted, match="stopped by SIGTERM, with 0 of 2 done"):
        run_in_processes([job(), job()], 1, 1)

    assert told == []


@pytest.mark.parametrize(
    ("function", "error"),
    [(refuse, UserError), (miss, MissingVersionError), (fail, ZeroDivisionError)],
)
def test_an_error_lets_the_others_save_and_is_raised(
    function: Callable[[], None], error: type[Exception], tmp_path: Path
) -> None:
    def wait_then_fail() -> Job[object]:
        yield partial(wait_for_files, tmp_path, "begun-*", 1)
        yield function

    with pytest.raises(error) as raised:
        run_in_processes([call(partial(train, tmp_path)), wait_then_fail()], 2, 1)

    assert type(raised.value) is error
    assert len(list(tmp_path.glob("saved-*"))) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_trainings_save(number: signal.Signals, tmp_path: Path) -> None:
    def interrupt() -> None:
        wait_for_files(tmp_path, "begun-*", 2)
        os.kill(os.getpid(), number)

    interrupter = threading.Thread(target=interrupt, daemon=True)
    interrupter.start()

    with pytest.raises(TrainingInterrupted, match=f"stopped by {number.name}, with 0 of 3 done"):
        run_in_processes([call(partial(train, tmp_path)) for _ in range(3)], 2, 1)

    assert len(list(tmp_path.glob("saved-*"))) == len(list(tmp_path.glob("begun-*"))) == 2


SCRIPT = """
import signal
import sys
from functools import partial
from pathlib import Path
from selfie_pipeline.training.processes import run_in_processes
from tests.training.test_processes import call, train

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    run_in_processes([call(partial(train, Path(sys.argv[1]))) for _ in range(2)], 2, 1)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_first(number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C reaches all processes of a terminal, and must end each training only once."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    first = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    pids = [int(path.name.split("-")[1]) for path in wait_for_files(tmp_path, "begun-*", 2)]

    if number == signal.SIGINT:
        os.killpg(first.pid, number)
    else:
        first.kill()
    _, told = first.communicate(timeout=60)

    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(list(tmp_path.glob("saved-*"))) == (2 if number == signal.SIGINT else 0)
    assert told.count("Traceback") == (number == signal.SIGINT), told  # the script's own
