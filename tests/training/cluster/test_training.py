"""Trainings over the workers of Ray clusters on this machine, with deaths of all kinds."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfie_pipeline.config import Config, UserError
from selfie_pipeline.models.selfie import Selfie
from selfie_pipeline.training.batches import Batches, Images
from selfie_pipeline.training.checkpoints import Checkpoint, Checkpoints
from selfie_pipeline.training.engine import open_engine
from selfie_pipeline.training.interruption import Interrupted
from selfie_pipeline.training.loop import Trained
from selfie_pipeline.training.randomness import fresh_weights
from selfie_pipeline.training.tasks import PretrainingTask

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray's own pipes and sockets
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # within Ray itself
]
STEPS = 8
SMALL = {
    "patch": {"canvas_size": 8, "image_size": 8, "patch_size": 4, "targets": 2},
    "augmentation": {"pad": 1, "flip": True},
    "model.attention.blocks": 1,
    "pretrain.steps": STEPS,
    "pretrain.batch_size": 12,
    "finetune.batch_size": 12,
    "pretrain.warmup_steps": 2,
    "pretrain.log_every": 3,
    "pretrain.checkpoint_every": 2,
    "compute.engine": "ray",
}


@dataclass(frozen=True)
class Noise:
    """Stored grids, of which a row is always the same random pixels."""

    grid: tuple[int, int]
    patch_size: int

    @property
    def mean(self) -> NDArray[np.float32]:
        return np.full(3, 0.5, dtype=np.float32)

    @property
    def std(self) -> NDArray[np.float32]:
        return np.full(3, 0.25, dtype=np.float32)

    def gather(self, rows: NDArray[np.int64]) -> Tensor:
        shape = (self.grid[0] * self.grid[1], 3, self.patch_size, self.patch_size)
        drawn = [
            np.random.default_rng(int(row)).integers(0, 256, shape, dtype=np.uint8) for row in rows
        ]
        return torch.from_numpy(np.stack(drawn))


class Eventful(PretrainingTask):
    """Something happens to one worker at the end of a step, once for each file that is laid."""

    event: tuple[int, int, str, Path] | None = None  # worker, step, what, folder of the file
    pause = 0.0

    def end_step(self, batch: Any) -> None:
        super().end_step(batch)
        time.sleep(self.pause)
        if self.event is None:
            return
        worker, step, what, folder = self.event
        here = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        if (here, self.steps_done) != (worker, step):
            return
        laid = sorted(folder.glob("again-*"))
        if laid:
            laid[0].unlink()
            if what == "killed":
                os.kill(os.getpid(), signal.SIGKILL)

    def checkpoint(self) -> Checkpoint:
        noted = self.event is not None and self.event[2] == "noted"
        if noted and torch.distributed.get_rank() == 0:
            time.sleep(2)  # the others, which write nothing, are long through
        return super().checkpoint()

    def score(self, batch: Any) -> tuple[Tensor, Tensor]:
        loss, accuracy = super().score(batch)
        if self.event is not None and self.event[2] == "diverges":
            worker, step, _, _ = self.event
            if (torch.distributed.get_rank(), batch.step) == (worker, step):
                loss = loss * float("nan")
        return loss, accuracy


@dataclass
class Arrangement:
    """A small training, and what happens in it."""

    config: Config
    folder: Path
    event: tuple[int, int, str, Path] | None = None
    pause: float = 0.0

    def train(self) -> Trained:
        config = self.config
        side = config.patch.canvas_size // config.patch.patch_size
        grids = Noise((side, side), config.patch.patch_size)
        images = Images(grids, config.patch, config.augmentation)
        recipe = config.pretrain
        with open_engine(config.compute) as engine:
            with fresh_weights(recipe.seed):
                task = Eventful(Selfie(config.model, config.patch), recipe, images)
            task.event, task.pause = self.event, self.pause
            checkpoints = Checkpoints(
                self.folder, engine.identity, recipe.checkpoint_every, config.resume
            )
            batches = Batches(images, np.arange(30), recipe.seed, recipe)
            return engine.fit(task, batches, engine.here, checkpoints, "pretrain")


Arrange = Callable[..., Arrangement]


@pytest.fixture
def arrange(make_config: Callable[..., Config], tmp_path: Path) -> Arrange:
    def make(
        workers: int = 2,
        event: tuple[int, int, str] | None = None,
        times: int = 1,
        pause: float = 0.0,
        **changes: Any,
    ) -> Arrangement:
        named = {name.replace("__", "."): value for name, value in changes.items()}
        config = make_config(SMALL | {"compute.workers": workers} | named)
        for number in range(times):
            (tmp_path / f"again-{number}").touch()
        folder = tmp_path / f"checkpoints-{len(list(tmp_path.glob('checkpoints-*')))}"
        folder.mkdir()
        return Arrangement(config, folder, (*event, tmp_path) if event else None, pause)

    return make


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray looks after its workers more often than its default of every two seconds."""
    from ray import cloudpickle  # noqa: PLC0415

    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # which workers can't import


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of this machine that says it has four processors."""
    import ray  # noqa: PLC0415

    from selfie_pipeline.training.cluster.connection import _SETTINGS  # noqa: PLC0415

    os.environ.update(_SETTINGS)
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        logging_level=logging.WARNING,
        object_store_memory=2**27,
    )
    yield
    ray.shutdown()


def digest(trained: Trained) -> str:
    """Of every byte of the weights and the history."""
    sha = hashlib.sha256(repr([tuple(row) for row in trained.history]).encode())
    for name, tensor in sorted(trained.tensors.items()):
        sha.update(name.encode())
        sha.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def assert_close(trained: Trained, other: Trained) -> None:
    assert trained.tensors.keys() == other.tensors.keys()
    for name, tensor in trained.tensors.items():
        torch.testing.assert_close(tensor, other.tensors[name], rtol=2e-3, atol=2e-4, msg=name)
    np.testing.assert_allclose(trained.history, other.history, rtol=1e-3)


def test_two_workers_learn_what_one_does(
    cluster: None, arrange: Arrange, caplog: pytest.LogCaptureFixture
) -> None:
    """Each batch in two parts, of which each worker has half."""
    caplog.set_level(logging.INFO, "selfie_pipeline")
    parts = {"pretrain__accumulate": 2, "pretrain__clip_norm": 1.0}
    here = arrange(1, compute__engine="local", **parts).train()

    trained = arrange(2, **parts).train()

    assert_close(trained, here)
    # Once here, once for both workers.
    assert sum(line.startswith("pretrain: 8 steps done") for line in caplog.messages) == 2


KILLED = "pretrain: a worker died; all go on from the last checkpoint"


@pytest.mark.parametrize(
    ("workers", "victim", "times"), [(2, 0, 1), (3, 1, 2)], ids=["the first", "another, twice"]
)
def test_a_killed_worker_costs_the_steps_since_the_last_checkpoint(
    cluster: None,
    arrange: Arrange,
    caplog: pytest.LogCaptureFixture,
    workers: int,
    victim: int,
    times: int,
) -> None:
    caplog.set_level(logging.INFO, "selfie_pipeline")
    undisturbed = digest(arrange(workers).train())

    training = arrange(workers, (victim, 5, "killed"), times=times, compute__max_failures=times)
    trained = training.train()

    assert digest(trained) == undisturbed
    assert sum(line.startswith(KILLED) for line in caplog.messages) == times
    assert "pretrain: goes on after step 4 of 8" in caplog.messages


def test_dead_too_often_it_ends_with_one_line_and_goes_on_when_run_again(
    cluster: None, arrange: Arrange
) -> None:
    training = arrange(2, (1, 5, "killed"), compute__max_failures=0)
    with pytest.raises(UserError, match=r"died more than compute.max_failures = 0 times") as caught:
        training.train()
    assert "\n" not in str(caught.value)
    assert (training.folder / "step-000000004.json").exists()

    trained = training.train()

    assert [row.step for row in trained.history] == [3, 6, 8]


def test_a_loss_that_is_not_finite_on_one_worker_stops_all(cluster: None, arrange: Arrange) -> None:
    training = arrange(2, (1, 4, "diverges"))

    with pytest.raises(UserError, match=r"^the loss is nan at step 5, .* and 4 more") as caught:
        training.train()

    assert "\n" not in str(caught.value)
    assert (training.folder / "not-finite.json").exists()
    assert (training.folder / "step-000000004.json").exists()


def test_a_signal_stops_all_workers_after_the_same_step_with_a_checkpoint(
    cluster: None, arrange: Arrange
) -> None:
    training = arrange(
        2, (0, 3, "noted"), pause=0.2, pretrain__steps=40, pretrain__checkpoint_every=100
    )

    def interrupt() -> None:
        while list(training.folder.parent.glob("again-*")):  # up to the third step
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt, daemon=True)
    interrupter.start()
    with pytest.raises(Interrupted, match=r"stopped by SIGINT after step \d+ of 40"):
        training.train()
    interrupter.join(60)
    (checkpoint,) = training.folder.glob("step-*.json")
    assert 0 < int(checkpoint.stem.removeprefix("step-")) < 40
    training.pause = 0.0

    assert [row.step for row in training.train().history] == [*range(3, 40, 3), 40]


def test_the_statistics_of_each_worker_alone_are_another_training(
    cluster: None, arrange: Arrange
) -> None:
    alone = arrange(2, compute__batch_norm="local")

    trained, here = alone.train(), arrange(1, compute__engine="local").train()

    assert trained.history[0].loss != pytest.approx(here.history[0].loss, rel=1e-3)
    # Its checkpoints are not gone on with under synchronised statistics, nor by other workers.
    with open_engine(alone.config.compute) as engine:
        assert engine.identity["batch_norm"] == "local to 2 workers"


def test_a_cluster_that_is_not_there(arrange: Arrange, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray  # noqa: PLC0415

    ray.shutdown()
    for address in ("127.0.0.1:1", "nowhere.invalid:6379", "ray://127.0.0.1:10001"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        started = time.monotonic()
        with pytest.raises(UserError, match=f"RAY_ADDRESS = {address}") as caught:
            arrange(2).train()
        assert time.monotonic() - started < 30
        assert "\n" not in str(caught.value)


def test_a_machine_that_leaves_and_another_that_comes(
    arrange: Arrange, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker on each of two nodes, of which one goes; until a third is there, they wait."""
    import ray  # noqa: PLC0415
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    from selfie_pipeline.training.cluster.connection import _SETTINGS  # noqa: PLC0415

    caplog.set_level(logging.INFO, "selfie_pipeline")
    ray.shutdown()
    os.environ.update(_SETTINGS)
    small = {"object_store_memory": 2**27}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    leaving, _ = (cluster.add_node(num_cpus=1, **small) for _ in range(2))
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    third: list[subprocess.Popen[bytes]] = []
    try:
        undisturbed = digest(arrange(2).train())
        training = arrange(2, pause=0.5)

        def replace_machine() -> None:
            while not list(training.folder.glob("step-*.json")):
                time.sleep(0.1)
            cluster.remove_node(leaving, allow_graceful=False)
            # As on another machine; add_node wants the main thread.
            start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
            options = [f"--address={cluster.address}", "--num-cpus=1", "--disable-usage-stats"]
            memory = f"--object-store-memory={2**27}"
            third.append(subprocess.Popen([*start, *options, memory]))

        replacer = threading.Thread(target=replace_machine, daemon=True)
        replacer.start()

        assert digest(training.train()) == undisturbed
        replacer.join(60)
    finally:
        for machine in third:
            machine.terminate()
            machine.wait(60)
        ray.shutdown()
        cluster.shutdown()
    assert any(line.startswith(KILLED) for line in caplog.messages)
