"""Trainings over the workers of Ray clusters on this machine, with deaths of all kinds."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from selfie_pipeline.config import Config, UserError
from selfie_pipeline.models.selfie import Selfie
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.batches import Batches, WindowReader
from selfie_pipeline.training.data.randomness import seeded_initialisation
from selfie_pipeline.training.engine import open_engine
from selfie_pipeline.training.signals import TrainingInterrupted
from selfie_pipeline.training.state import TrainingResult
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
    "pretrain.accumulate": 2,  # so each batch is in two parts, of which each worker has half
    "pretrain.clip_norm": 1.0,
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


class SlowToSave(Selfie):
    """A network whose state the first worker is slow to copy, as for a checkpoint."""

    pause_s = 0.0

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        if _rank() == 0:
            time.sleep(self.pause_s)
        return super().state_dict(*arguments, **options)


class Eventful(PretrainingTask):
    """A task with events, each of which happens once to one worker, given by files in a folder."""

    events: Path  # with files such as killed-0-3: worker 0, in step 3, after 2 steps
    pause_s = 0.0  # of every micro-batch

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        time.sleep(self.pause_s)
        step = batch.step + 1
        self._happens("noted", step)
        if self._happens("killed", step):
            os.kill(os.getpid(), signal.SIGKILL)
        loss, accuracy = super().forward(batch)
        if self._happens("diverges", step):
            loss = loss * float("nan")
        return loss, accuracy

    def _happens(self, event: str, step: int) -> bool:
        file = self.events / f"{event}-{_rank()}-{step}"
        happens = file.exists()
        file.unlink(missing_ok=True)
        return happens


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


@dataclass
class Arrangement:
    """A small training in a folder, which has what happens in it and its checkpoints."""

    config: Config
    folder: Path
    pause_s: float = 0.0
    pause_of_checkpoint_s: float = 0.0

    def saved(self, pattern: str = "step-*.json") -> list[Path]:
        """Find files of its checkpoints."""
        return list(self.folder.glob(f"checkpoints-*/{pattern}"))

    def lay(self, *events: str) -> Arrangement:
        for event in events:
            (self.folder / event).touch()
        return self

    def train(self) -> TrainingResult:
        config = self.config
        side = config.patch.canvas_size // config.patch.patch_size
        grids = Noise((side, side), config.patch.patch_size)
        images = WindowReader(grids, config.patch, config.augmentation)
        recipe = config.pretrain
        with open_engine(config.compute) as engine:
            with seeded_initialisation(recipe.seed):
                network = SlowToSave(config.model, config.patch)
            network.pause_s = self.pause_of_checkpoint_s
            task = Eventful(network, recipe, images)
            task.events, task.pause_s = self.folder, self.pause_s
            checkpoints = Checkpoints(
                self.folder / "checkpoints",
                engine.identity,
                recipe.checkpoint_every,
                config.resume,
            )
            batches = Batches(images, np.arange(30), recipe.seed, recipe)
            return engine.fit(task, batches, engine.local_device, checkpoints, "pretrain")


Arrange = Callable[..., Arrangement]


@pytest.fixture(scope="module")
def arrange(
    make_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> Arrange:
    def make(workers: int = 2, **changes: Any) -> Arrangement:
        named = {name.replace("__", "."): value for name, value in changes.items()}
        config = make_config(SMALL | {"compute.workers": workers} | named)
        return Arrangement(config, tmp_path_factory.mktemp("training"))

    return make


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Ray looks after its workers more often, and starts a process less for each training."""
    from ray import cloudpickle  # noqa: PLC0415

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # which workers can't import
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # not every 2 s
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # which no cloud notifies
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of this machine that says it has two processors."""
    import ray  # noqa: PLC0415

    from selfie_pipeline.training.distributed.cluster import RAY_ENVIRONMENT  # noqa: PLC0415

    os.environ.update(RAY_ENVIRONMENT)
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        logging_level=logging.WARNING,
        object_store_memory=2**27,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def here(arrange: Arrange) -> TrainingResult:
    """By one worker, in this process."""
    return arrange(1, compute__engine="local").train()


@pytest.fixture(scope="module")
def undisturbed(cluster: None, arrange: Arrange) -> TrainingResult:
    """By two workers to whom nothing happens."""
    return arrange(2).train()


KILLED = "pretrain: a worker died; all resume from the last checkpoint"


def digest(trained: TrainingResult) -> str:
    """Return the SHA-256 of the weights and the history."""
    sha = hashlib.sha256(repr([tuple(row) for row in trained.history]).encode())
    for name, tensor in sorted(trained.tensors.items()):
        sha.update(name.encode())
        sha.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def assert_close(trained: TrainingResult, other: TrainingResult) -> None:
    assert trained.tensors.keys() == other.tensors.keys()
    for name, tensor in trained.tensors.items():
        torch.testing.assert_close(tensor, other.tensors[name], rtol=2e-3, atol=2e-4, msg=name)
    np.testing.assert_allclose(trained.history, other.history, rtol=1e-3)


def test_two_workers_learn_what_one_does(undisturbed: TrainingResult, here: TrainingResult) -> None:
    assert_close(undisturbed, here)


def workers_that_load_the_training() -> set[int]:
    """Return the processes to which Ray Train has just given the training."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            if b"RayTrainWorker.run_train_fn" in path.read_bytes():
                found.add(int(path.parent.name))
    return found


def test_killed_workers_cost_the_steps_since_the_last_checkpoint(
    undisturbed: TrainingResult, arrange: Arrange, caplog: pytest.LogCaptureFixture
) -> None:
    """One dies before the training begins, then the first one, then the other: once too often.

    After the first death Ray Train gives up, and keeps all places of the cluster reserved.
    """
    caplog.set_level(logging.INFO, "selfie_pipeline")
    training = arrange(2, compute__max_failures=2).lay("killed-0-6", "killed-1-8")

    def kill() -> None:
        while not (found := workers_that_load_the_training()):
            time.sleep(0.01)
        os.kill(found.pop(), signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(UserError, match=r"died more than compute.max_failures = 2 times") as caught:
        training.train()

    assert not killer.is_alive()
    assert "\n" not in str(caught.value)
    assert sum(line.startswith(KILLED) for line in caplog.messages) == 1
    assert digest(training.train()) == digest(undisturbed)
    resumed = [line for line in caplog.messages if line.startswith("pretrain: resumes")]
    assert resumed == [f"pretrain: resumes after step {step} of 8" for step in (4, 6)]


@pytest.fixture(scope="module")
def diverged(cluster: None, arrange: Arrange) -> tuple[Arrangement, str]:
    """A training with each worker's own BatchNorm statistics, of which one diverges; its error."""
    training = arrange(2, compute__batch_norm="local").lay("diverges-1-5")
    with pytest.raises(UserError) as caught:
        training.train()
    return training, str(caught.value)


def test_a_loss_that_is_not_finite_on_one_worker_stops_all(
    diverged: tuple[Arrangement, str],
) -> None:
    training, error = diverged
    assert re.match(r"the loss is nan at step 5, .* and 4 more", error)
    assert "\n" not in error
    assert training.saved("step-000000004.json")


def test_the_statistics_of_each_worker_alone_are_another_training(
    diverged: tuple[Arrangement, str], here: TrainingResult
) -> None:
    training, _ = diverged
    (checkpoint,) = training.saved("step-000000004.safetensors")
    ((step, loss, *_),) = load_file(checkpoint)["history"]

    assert step == here.history[0].step
    assert loss.item() != pytest.approx(here.history[0].loss, rel=1e-3)
    # Its checkpoints are not gone on with under synchronised statistics, nor by other workers.
    with open_engine(training.config.compute) as engine:
        assert engine.identity["batch_norm"] == "local to 2 workers"


def test_a_signal_stops_all_workers_after_the_same_step_with_a_checkpoint(
    cluster: None, arrange: Arrange
) -> None:
    training = arrange(2, pretrain__steps=40, pretrain__checkpoint_every=100).lay("noted-0-4")
    training.pause_s = 0.1
    training.pause_of_checkpoint_s = 2  # the other worker, which writes none, is long through

    def interrupt() -> None:
        while (training.folder / "noted-0-4").exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt, daemon=True)
    interrupter.start()
    with pytest.raises(TrainingInterrupted, match=r"stopped by SIGINT after step \d+ of 40"):
        training.train()
    interrupter.join(60)
    (checkpoint,) = training.saved()
    assert 0 < int(checkpoint.stem.removeprefix("step-")) < 40


def test_a_cluster_that_is_too_small(
    cluster: None, arrange: Arrange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfie_pipeline.training.distributed.cluster._JOIN_TIMEOUT_S", 0)

    with pytest.raises(UserError, match=r"^compute.workers = 6, .* does not fit .* it holds 2: "):
        arrange(6).train()


def test_a_cluster_that_is_not_there(arrange: Arrange, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray  # noqa: PLC0415

    ray.shutdown()
    for address in (
        "127.0.0.1:1",
        "127.0.0.1:65536",
        "nowhere.invalid:6379",
        "ray://127.0.0.1:10001",
    ):
        monkeypatch.setenv("RAY_ADDRESS", address)
        started = time.monotonic()
        with pytest.raises(UserError, match=f"RAY_ADDRESS = {address}") as caught:
            arrange(2).train()
        assert time.monotonic() - started < 30
        assert "\n" not in str(caught.value)


def test_a_machine_that_leaves_and_another_that_comes(
    undisturbed: TrainingResult, arrange: Arrange, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker on each of two nodes, of which one goes; until a third is there, they wait."""
    import ray  # noqa: PLC0415
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    from selfie_pipeline.training.distributed.cluster import RAY_ENVIRONMENT  # noqa: PLC0415

    caplog.set_level(logging.INFO, "selfie_pipeline")
    ray.shutdown()
    os.environ.update(RAY_ENVIRONMENT)
    small = {"object_store_memory": 2**27}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    leaving, _ = (cluster.add_node(num_cpus=1, **small) for _ in range(2))
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    third: list[subprocess.Popen[bytes]] = []
    try:
        training = arrange(2)
        training.pause_s = 0.25

        def replace_machine() -> None:
            while not training.saved():
                time.sleep(0.1)
            cluster.remove_node(leaving, allow_graceful=False)
            # As on another machine; add_node wants the main thread.
            start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
            options = [f"--address={cluster.address}", "--num-cpus=1", "--disable-usage-stats"]
            memory = f"--object-store-memory={2**27}"
            third.append(subprocess.Popen([*start, *options, memory]))

        replacer = threading.Thread(target=replace_machine, daemon=True)
        replacer.start()

        assert digest(training.train()) == digest(undisturbed)
        replacer.join(60)
    finally:
        for machine in third:
            machine.terminate()
            machine.wait(60)
        ray.shutdown()
        cluster.shutdown()
    assert any(line.startswith(KILLED) for line in caplog.messages)
