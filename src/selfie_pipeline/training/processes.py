"""Runs jobs in parallel on this machine, in a few processes with a call at a time."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from tqdm import tqdm

from selfie_pipeline.training.jobs import (
    POLL_INTERVAL_S,
    STOP_TIMEOUT_S,
    Job,
    WorkerDiedError,
    jobs_interrupted,
)
from selfie_pipeline.training.signals import StopRequest

_LOG = logging.getLogger(__name__)
R = TypeVar("R")


def run_in_processes(jobs: Sequence[Job[R]], count: int, threads: int) -> list[R]:
    """Run jobs in this number of processes; see `job_runner.run_jobs`.

    Args:
        jobs: Generators that have not been started; the calls they yield are pickled.
        count: Number of processes.
        threads: Number of threads that torch computes with in each.
    """
    schedule = _Schedule(deque(enumerate(jobs)), threads)
    with StopRequest() as stop, schedule.stopped_on_error():
        for _ in range(min(count, len(jobs))):
            schedule.start_next(_create_process(threads))
        while schedule.running and not stop.received:
            done, _ = wait(schedule.running, POLL_INTERVAL_S, FIRST_COMPLETED)
            for future in done:
                if not (stop.received and schedule.has_died(future)):  # by the same signal, then
                    schedule.continue_job(future)
        if stop.received:
            raise jobs_interrupted(stop.received, len(schedule.results), len(jobs))
    return [schedule.results[number] for number in range(len(jobs))]


@dataclass
class _Schedule(Generic[R]):
    """The jobs that wait, run and are done.

    Each process is a pool of one, so that the death of one does not break the others.
    """

    waiting: deque[tuple[int, Job[R]]]
    threads: int
    running: dict[Future[Any], tuple[ProcessPoolExecutor, int, Job[R]]] = field(
        default_factory=dict
    )
    results: dict[int, R] = field(default_factory=dict)

    def start_next(self, process: ProcessPoolExecutor) -> None:
        """Start the next waiting job in a process, or end the process."""
        if self.waiting:
            number, job = self.waiting.popleft()
            self._advance(process, number, job, job.__next__)
        else:
            process.shutdown(wait=False)

    @staticmethod
    def has_died(future: Future[Any]) -> bool:
        """Return whether the process of a call that is done has died."""
        return isinstance(future.exception(), BrokenProcessPool)

    def continue_job(self, future: Future[Any]) -> None:
        """Send a job the result of its call, and make its next one."""
        process, number, job = self.running.pop(future)
        if self.has_died(future):
            died = WorkerDiedError(
                "its process was killed, perhaps for lack of memory; run the same command "
                "(without resume=never) to resume, with a smaller compute.cells_at_once if memory "
                "is short"
            )
            self._advance(_create_process(self.threads), number, job, lambda: job.throw(died))
        else:
            self._advance(process, number, job, lambda: job.send(future.result()))

    def _advance(
        self,
        process: ProcessPoolExecutor,
        number: int,
        job: Job[R],
        step: Callable[[], Callable[[], Any]],
    ) -> None:
        try:
            call = step()
        except StopIteration as end:
            self.results[number] = end.value
            self.start_next(process)
            return
        # Pickled here, because the pool's own pickling moves tensors into shared memory, of which
        # containers have little.
        with _blocked(signal.SIGINT, signal.SIGHUP):
            self.running[process.submit(_execute, pickle.dumps(call))] = (process, number, job)

    @contextmanager
    def stopped_on_error(self) -> Iterator[None]:
        """If an error ends the context, let running calls save their state, then end them."""
        before = set(multiprocessing.active_children())
        try:
            yield
        except BaseException:
            children = set(multiprocessing.active_children()) - before
            for child in children:
                child.terminate()
            try:
                _, late = wait(self.running, STOP_TIMEOUT_S)
                if late:
                    _LOG.warning(
                        "%d jobs did not stop; they resume from their last checkpoint", len(late)
                    )
            finally:
                for child in children:
                    child.kill()
            raise


def _create_process(threads: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, _prepare_process, (threads,))


@contextmanager
def _blocked(*signals: signal.Signals) -> Iterator[None]:
    """Block signals; a process that starts in this context never receives them.

    Ctrl-C and the closing of a terminal reach all its processes. The first one stops the others,
    with SIGTERM.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _prepare_process(threads: int) -> None:
    torch.set_num_threads(threads)
    tqdm.set_lock(threading.RLock())  # its own one is a semaphore, which outlives a killed process
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process if the one that started it was killed: nobody would read its results."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _execute(call: bytes) -> Any:
    return pickle.loads(call)()  # noqa: S301  # of the process that started this one
