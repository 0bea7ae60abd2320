"""Tests of the program with generated bad inputs, and tests that faults are noticed.

$SELFIE_HOSTILE_INPUTS sets their number; `python -m tests.hostile` has more options.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from tests.hostile.inputs import Input, Kind, WrongResultError, generate_batch
from tests.hostile.running import try_batch
from tests.hostile.trials import CANARY, Outcome

from selfie_pipeline.config import UserError

REPOSITORY = Path(__file__).parents[2]
INPUTS = os.environ.get("SELFIE_HOSTILE_INPUTS", "1000")


@pytest.mark.slow
def test_no_bad_input_causes_a_fault() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile", "--inputs", INPUTS],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def kind(target: Callable[[Input, Path], None], expected: str = "either") -> Kind:
    numbers = st.integers(0, 10**6)
    inputs = numbers.map(lambda n: Input("a number", {"n": b"%d" % n}, n, expected))
    return Kind("a kind", inputs, target)


def judge(
    target: Callable[[Input, Path], None], expected: str = "either", time_limit: float = 30
) -> Outcome:
    (outcome,) = try_batch(kind(target, expected), 0, range(1), time_limit=time_limit)
    return outcome


def refuse(item: Input, folder: Path) -> None:
    raise UserError("no")


def accept(item: Input, folder: Path) -> None:
    assert (folder / "input/n").read_bytes() == b"%d" % item.value
    (folder / "data/result").write_text("fine")


def test_refused_and_accepted_inputs_are_not_faults() -> None:
    assert (judge(refuse).answer, judge(refuse).fault) == ("refused", None)
    assert (judge(accept).answer, judge(accept).fault) == ("accepted", None)


def test_a_wrong_answer_is_noticed() -> None:
    assert judge(refuse, "accepted").fault == "wrong result"
    assert judge(accept, "refused").fault == "wrong result"


def refuse_with(message: str) -> None:
    raise UserError(message)


def return_wrong_result() -> None:
    raise WrongResultError("other pixels")


@pytest.mark.parametrize(
    ("action", "fault"),
    [
        (lambda: 1 / 0, "traceback"),
        (lambda: sys.exit("no"), "traceback"),
        (return_wrong_result, "wrong result"),
        (lambda: refuse_with(""), "message"),
        (lambda: refuse_with("a" * 5000), "message"),
        (lambda: Path("beside").write_text("data/"), "write"),
        (lambda: Path("data/../beside").mkdir(), "write"),
        (lambda: sys.audit(CANARY), "code"),
        (lambda: os.system("true"), "code"),
        (lambda: subprocess.run(["true"], check=True), "code"),
        (lambda: np.ones(7 * 2**28, np.uint8), "memory"),
        (lambda: time.sleep(600), "hang"),
        (lambda: os._exit(3), "crash"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "crash"),
    ],
)
def test_faults_are_noticed(
    action: Callable[[], object], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.hostile.running._load", lambda: 1.0)

    def target(item: Input, folder: Path) -> None:
        faulthandler.disable()  # pytest's: it would print all that this process was doing
        action()

    assert judge(target, time_limit=1 if fault == "hang" else 30).fault == fault


def test_the_inputs_after_a_hang_and_a_crash_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.hostile.running._load", lambda: 1.0)
    batch = generate_batch(kind(accept), 0, 0)

    def target(item: Input, folder: Path) -> None:
        if item.value == batch[1].value:
            os._exit(1)
        if item.value == batch[3].value:
            time.sleep(600)

    outcomes = list(try_batch(kind(target), 0, range(6), time_limit=1))

    faults = {outcome.number: outcome.fault for outcome in outcomes if outcome.fault}
    assert [outcome.number for outcome in outcomes] == list(range(6))
    assert faults == {1: "crash", 3: "hang"}


def test_an_input_is_determined_by_its_seed_and_number() -> None:
    first, again = generate_batch(kind(accept), 0, 3), generate_batch(kind(accept), 0, 3)

    assert [item.value for item in first] == [item.value for item in again]
    assert [item.value for item in generate_batch(kind(accept), 1, 3)] != [
        item.value for item in first
    ]
