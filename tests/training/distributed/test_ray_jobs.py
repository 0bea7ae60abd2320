"""Tests of parallel jobs on a Ray cluster of several nodes, all on this machine."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from selfie_pipeline.config import ComputeConfig, Config, UserError
from selfie_pipeline.training.job_runner import run_jobs
from selfie_pipeline.training.jobs import Job, WorkerDiedError
from selfie_pipeline.training.signals import StopRequest, TrainingInterrupted

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray's own pipes and sockets
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # within Ray itself
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Start a head node without CPUs for tasks, and a node with two."""
    import ray  # noqa: PLC0415
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    from selfie_pipeline.training.distributed.cluster import RAY_ENVIRONMENT  # noqa: PLC0415

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers can't import it
    os.environ.update(RAY_ENVIRONMENT)
    small = {"object_store_memory": 2**27}
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    started.add_node(num_cpus=2, num_gpus=1, **small)  # in name
    ray.init(address=started.address, log_to_driver=False, configure_logging=False)
    yield started
    ray.shutdown()
    started.shutdown()


@pytest.fixture
def compute(make_config: Callable[..., Config]) -> ComputeConfig:
    return make_config({"compute.engine": "ray", "compute.max_failures": 2}).compute


def doubled(number: int) -> int:
    return 2 * number


def die(times: int, folder: Path) -> str:
    """Die so many times, counted by files, then succeed."""
    deaths = len(list(folder.glob("died-*")))
    if deaths < times:
        (folder / f"died-{deaths}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return f"after {deaths}"


def fail() -> None:
    raise UserError("the disk is full")


def wait_for_signal(folder: Path) -> None:
    """Wait for a signal and end by it, like a training."""
    with StopRequest() as stop:
        (folder / f"begun-{os.getpid()}").touch()
        while not stop.poll():
            time.sleep(0.05)
        (folder / f"ended-{os.getpid()}").touch()
        raise TrainingInterrupted("stopped", signal.SIGTERM)


def double_twice(number: int) -> Job[int]:
    once: int = yield partial(doubled, number)
    twice: int = yield partial(doubled, once)
    return twice


def try_to_survive(times: int, folder: Path) -> Job[str]:
    try:
        survived: str = yield partial(die, times, folder)
    except WorkerDiedError as error:
        return str(error)
    return survived


def test_results_are_in_order_and_tasks_of_a_job_depend_on_earlier_ones(
    cluster: Any, compute: ComputeConfig
) -> None:
    assert run_jobs([double_twice(number) for number in range(5)], compute, 0) == [0, 4, 8, 12, 16]


def test_a_process_that_has_used_a_gpu_makes_no_other_call(
    cluster: Any, compute: ComputeConfig
) -> None:
    """It would compute on that GPU whichever is assigned to the call, and keep its memory."""

    def job() -> Job[set[int]]:
        first: int = yield os.getpid
        second: int = yield os.getpid
        return {first, second}

    on_gpu = compute.model_copy(update={"accelerator": "gpu"})

    assert len(run_jobs([job()], compute, 0)[0]) == 1
    assert len(run_jobs([job()], on_gpu, 0)[0]) == 2


def test_a_task_whose_worker_dies_is_retried_max_failures_times(
    cluster: Any, compute: ComputeConfig, tmp_path: Path
) -> None:
    for name in ("twice", "thrice"):
        (tmp_path / name).mkdir()

    survived, lost = run_jobs(
        [try_to_survive(2, tmp_path / "twice"), try_to_survive(3, tmp_path / "thrice")], compute, 0
    )

    assert survived == "after 2"
    assert lost.startswith("its process died at every attempt")
    assert len(list((tmp_path / "thrice").iterdir())) == 3


def test_tasks_of_a_removed_node_run_on_another(
    cluster: Any, compute: ComputeConfig, tmp_path: Path
) -> None:
    leaving = cluster.add_node(num_cpus=1, object_store_memory=2**27)

    def slow(number: int) -> int:
        (tmp_path / f"{number}-{time.monotonic()}").touch()
        time.sleep(4)
        return number

    def job(number: int) -> Job[int]:
        done: int = yield partial(slow, number)
        return done

    def leave() -> None:
        while len(list(tmp_path.iterdir())) < 3:
            time.sleep(0.1)
        cluster.remove_node(leaving, allow_graceful=False)

    remover = threading.Thread(target=leave, daemon=True)
    remover.start()

    assert run_jobs([job(number) for number in range(3)], compute, 0) == [0, 1, 2]
    remover.join(60)
    assert len(list(tmp_path.iterdir())) > 3  # at least one was started twice


def test_a_user_error_of_a_task_reaches_the_driver(cluster: Any, compute: ComputeConfig) -> None:
    def job() -> Job[None]:
        yield fail

    with pytest.raises(UserError, match=r"^the disk is full$"):
        run_jobs([job()], compute, 0)


def test_an_error_of_a_task_lets_the_others_end_their_step(
    cluster: Any, compute: ComputeConfig, tmp_path: Path
) -> None:
    def fail_beside_another() -> None:
        while not list(tmp_path.glob("begun-*")):
            time.sleep(0.05)
        fail()

    def job(call: Callable[[], object]) -> Job[None]:
        yield call

    with pytest.raises(UserError, match=r"^the disk is full$"):
        run_jobs([job(partial(wait_for_signal, tmp_path)), job(fail_beside_another)], compute, 0)
    assert len(list(tmp_path.glob("ended-*"))) == 1


def test_ctrl_c_lets_tasks_end_their_step(
    cluster: Any, compute: ComputeConfig, tmp_path: Path
) -> None:
    def job() -> Job[None]:
        yield partial(wait_for_signal, tmp_path)

    def interrupt() -> None:
        while len(list(tmp_path.glob("begun-*"))) < 2:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt, daemon=True)
    interrupter.start()

    with pytest.raises(TrainingInterrupted, match="stopped by SIGINT, with 0 of 3 done"):
        run_jobs([job() for _ in range(3)], compute, 0)
    interrupter.join(60)
    assert len(list(tmp_path.glob("ended-*"))) == len(list(tmp_path.glob("begun-*"))) == 2


def test_resources_that_no_node_has_are_a_user_error(
    cluster: Any, make_config: Callable[..., Config]
) -> None:
    compute = make_config({"compute.engine": "ray", "compute.cpus_per_cell": 3}).compute

    started = time.monotonic()
    with pytest.raises(UserError, match=r"a cell, with 3 CPU each, does not fit .* it holds 0"):
        run_jobs([double_twice(1)], compute, 0)
    assert time.monotonic() - started < 30
