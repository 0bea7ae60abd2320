"""Trainings over the workers of Ray clusters on this machine, with deaths of all kinds."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
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
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.engine import open_engine
from selfie_pipeline.training.interruption import Interrupted
from selfie_pipeline.training.loop import Trained
from selfie_pipeline.training.randomness import fresh_weights
from selfie_pipeline.training.tasks import PretrainingTask

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray's own pipes and sockets
]
STEPS = 8
SMALL = {
    "patch": {"canvas_size": 8, "image_size": 8, "patch_size": 4, "targets": 2},
    "augmentation": {"pad": 1, "flip": True},
    "model.attention.blocks": 1,
    "pretrain.steps": STEPS,
    "pretrain.batch_size": 12,
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


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_workers_learn_what_one_does(
    cluster: None, arrange: Arrange, accumulate: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "selfie_pipeline")
    parts = {"pretrain__accumulate": accumulate, "pretrain__clip_norm": 1.0}
    here = arrange(1, compute__engine="local", **parts).train()

    trained = arrange(2, **parts).train()

    assert_close(trained, here)
    assert [line for line in caplog.messages if "steps done" in line] == [
        line for line in caplog.messages if line.startswith("pretrain: 8 steps done")
    ]
