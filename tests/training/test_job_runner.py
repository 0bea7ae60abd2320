"""Tests of running jobs."""

from __future__ import annotations

import joblib
import pytest
import torch

from selfie_pipeline.training import job_runner
from selfie_pipeline.training.job_runner import run_jobs
from selfie_pipeline.training.jobs import Job


def count_to(number: int) -> Job[list[int]]:
    """A job whose calls depend on the results before them."""
    counted = [0]
    while counted[-1] < number:
        counted.append((yield lambda: counted[-1] + 1))
    return counted


def call(function) -> Job[object]:
    """A job of one call."""
    return (yield function)


def test_results_are_in_the_order_of_the_jobs(make_config) -> None:
    found = run_jobs([count_to(3), count_to(0), count_to(1)], make_config().compute, 1)

    assert found == [[0, 1, 2, 3], [0], [0, 1]]


def test_an_error_of_a_call_ends_its_job(make_config) -> None:
    with pytest.raises(ZeroDivisionError):
        run_jobs([call(lambda: 1 / 0)], make_config().compute, 1)


@pytest.mark.parametrize(("per_cell", "threads"), [(1, 1), (2, 2), (0.5, 1)])
def test_a_job_computes_with_its_own_number_of_threads(make_config, per_cell, threads) -> None:
    before = torch.get_num_threads()
    compute = make_config({"compute.cpus_per_cell": per_cell}).compute

    assert run_jobs([call(torch.get_num_threads)], compute, 1) == [threads]
    assert torch.get_num_threads() == before


@pytest.fixture
def count_at_once(make_config, monkeypatch):
    """Return a function that says how many of 20 jobs run at once, and with how many threads."""

    def count(cores: int = 8, gibibytes: int = 100, number: int = 20, **compute) -> tuple[int, int]:
        monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
        monkeypatch.setattr(job_runner, "available_memory", lambda: gibibytes * 2**30)
        monkeypatch.setattr(
            job_runner, "run_in_processes", lambda _, at_once, threads: [at_once, threads]
        )
        changes = {"cells_at_once": "auto"} | compute
        config = make_config({f"compute.{name}": value for name, value in changes.items()})
        found = run_jobs([call(lambda: None)] * number, config.compute, 4 * 2**30)
        return (1, 0) if None in found else tuple(found)

    return count


def test_as_many_run_at_once_as_there_are_cores_for(count_at_once, caplog) -> None:
    caplog.set_level("INFO")
    assert count_at_once(cores=8) == (8, 1)
    assert count_at_once(cores=8, cpus_per_cell=3) == (2, 3)
    assert count_at_once(cells_at_once=5) == (5, 1)
    assert caplog.messages == [
        "running 8 jobs in parallel, with 1 thread each",
        "running 2 jobs in parallel, with 3 threads each",
        "running 5 jobs in parallel, with 1 thread each",
    ]


def test_fewer_run_at_once_if_memory_does_not_suffice(count_at_once, caplog) -> None:
    caplog.set_level("WARNING")
    assert count_at_once(cores=8, gibibytes=15) == (3, 1)  # 4 GiB each
    assert caplog.messages == [
        "there is memory for 3 jobs in parallel, of about 4.0 GiB each; to use more cores for "
        "each, raise compute.cpus_per_cell = 1"
    ]


@pytest.mark.parametrize(
    "machine",
    [{"cores": 1}, {"gibibytes": 1}, {"cores": 2, "cpus_per_cell": 4}, {"number": 1}],
    ids=str,
)
def test_one_at_a_time_runs_in_this_process(count_at_once, machine) -> None:
    assert count_at_once(**machine) == (1, 0)
