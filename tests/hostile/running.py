"""Tries batches of inputs in child processes, which may hang or die."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.connection import Connection

from tests.hostile.inputs import BATCH_SIZE, Kind, generate_batch
from tests.hostile.kinds import load_kinds
from tests.hostile.trials import (
    TIME_LIMIT_S,
    FaultType,
    Outcome,
    limit_address_space,
    try_input,
)

_START_LIMIT_S = 600.0
"""Time limit for the generation of a batch."""

Work = Callable[[Connection, Kind, int, range], None]


def try_all(
    total: int, kinds: Sequence[Kind], base_seed: int = 0, processes: int = 1
) -> Iterator[Outcome]:
    """Try about `total` inputs, divided among the kinds by their shares.

    Args:
        total: Number of inputs of all kinds together.
        kinds: The kinds to try.
        base_seed: Seed of the inputs.
        processes: Number of batches that are tried at the same time.

    Yields:
        The outcomes, alternating between the kinds, so that an interrupted run has some of each.
    """
    shares = sum(kind.share for kind in kinds)
    counts = {kind.name: math.ceil(total * kind.share / shares) for kind in kinds}
    batches = [
        (name, range(first, min(first + BATCH_SIZE, count)))
        for first in range(0, max(counts.values()), BATCH_SIZE)
        for name, count in counts.items()
        if first < count
    ]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
        tries = [pool.submit(_try_named, name, base_seed, numbers) for name, numbers in batches]
        try:
            for tried in as_completed(tries):
                yield from tried.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _try_named(name: str, base_seed: int, numbers: range) -> list[Outcome]:
    (kind,) = load_kinds([name])
    try:
        return list(try_batch(kind, base_seed, numbers))
    except RuntimeError as error:  # the others are tried all the same
        return [Outcome(name, numbers.start, "a batch", None, "crash", str(error), 0, 0)]


def try_batch(
    kind: Kind,
    base_seed: int,
    numbers: range,
    work: Work | None = None,
    time_limit: float = TIME_LIMIT_S,
) -> Iterator[Outcome]:
    """Try inputs of one batch in a child process, with a new one after each hang and crash.

    Args:
        kind: The kind of the inputs.
        base_seed: Seed of the inputs.
        numbers: Numbers of the inputs, all of one batch.
        work: The process's function; by default `work_batch`.
        time_limit: Seconds for each input on an idle machine; longer under load.

    Yields:
        The outcomes, in the order of the numbers.

    Raises:
        RuntimeError: The batch can't be generated.
    """
    while numbers:
        for outcome in _try_in_process(kind, base_seed, numbers, work or work_batch, time_limit):
            yield outcome
            numbers = range(outcome.number + 1, numbers.stop)
            if outcome.fault in {"hang", "crash"}:
                break
        else:
            return


def _try_in_process(
    kind: Kind, base_seed: int, numbers: range, work: Work, time_limit: float
) -> Iterator[Outcome]:
    # Forked, because the imports take longer than a batch.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, kind, base_seed, numbers))
    process.start()
    theirs.close()
    try:
        while (message := _receive(ours, _START_LIMIT_S)) != "done":
            if not isinstance(message, tuple):
                raise RuntimeError(f"{kind.name}: the batch of {numbers} could not be generated")
            number, what = message
            started = time.monotonic()
            answer = _receive(ours, time_limit * _load())
            if isinstance(answer, Outcome):
                yield answer
                continue
            process.join(1)
            fault: FaultType = "hang" if answer is None else "crash"
            detail = "no end" if answer is None else f"exit code {process.exitcode}"
            seconds = round(time.monotonic() - started, 1)
            yield Outcome(kind.name, number, what, None, fault, detail, seconds, 0)
            return
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        ours.close()


def _load() -> float:
    """Return this machine's load average per core; at least 1."""
    return max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def _receive(connection: Connection, limit: float) -> object:
    """Return the next message; None if the limit passes, "lost" if the process died."""
    try:
        return connection.recv() if connection.poll(limit) else None
    except (EOFError, OSError):
        return "lost"


def work_batch(connection: Connection, kind: Kind, base_seed: int, numbers: range) -> None:
    """Generate a batch and try some of its inputs; send each one's number, then its outcome."""
    os.setsid()  # so that its child processes can be killed with it
    sys.dont_write_bytecode = True
    warnings.simplefilter("ignore")
    batch = generate_batch(kind, base_seed, numbers.start // BATCH_SIZE)
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(quiet, descriptor)
    limit_address_space()
    for number in numbers:
        index = number % BATCH_SIZE
        if index < len(batch):
            connection.send((number, batch[index].what))
            connection.send(try_input(kind, number, batch[index]))
    connection.send("done")
