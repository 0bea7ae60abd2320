"""Tests of data-parallel steps, in processes of torch.distributed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, multiprocessing

from selfie_pipeline.config import Config
from selfie_pipeline.models.selfie import Selfie
from selfie_pipeline.training.checkpoints import Checkpoint
from selfie_pipeline.training.data.batches import Batches, WindowReader
from selfie_pipeline.training.data.randomness import seeded_initialisation
from selfie_pipeline.training.distributed.batch_norm import synchronise_batch_norm
from selfie_pipeline.training.distributed.process_group import (
    RankZeroCheckpoints,
    SynchronisedStopRequest,
    all_gather,
    all_reduce_mean,
    data_parallel,
)
from selfie_pipeline.training.tasks import PretrainingTask

pytestmark = pytest.mark.slow  # starts processes

WORKERS = 2
Tensors = dict[str, Tensor]


def train_in_float64(
    config: Config, images: WindowReader, worker: int, workers: int
) -> tuple[Tensor, Tensors]:
    """Return the losses and accuracies of all steps, and the network's state after them."""
    torch.set_num_threads(1)
    recipe = config.pretrain
    with seeded_initialisation(recipe.seed):
        network = Selfie(config.model, config.patch)
    task = PretrainingTask(network, recipe, images).double()
    if workers > 1:
        synchronise_batch_norm(network)
        if config.compute.compile == "always":
            network.compile(dynamic=False, backend="aot_eager", fullgraph=True)  # or it raises
    step = data_parallel(task, "cpu")
    optimizer = torch.optim.SGD(task.parameters(), lr=0.05, momentum=0.9)
    batches = Batches(images, np.arange(20), 0, recipe, worker=worker, workers=workers)
    losses = []
    for batch in batches:
        loss, accuracy = step(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(all_reduce_mean(torch.stack([loss.detach(), accuracy.double()])))
    return torch.stack(losses), network.state_dict()


def run_worker(worker: int, folder: Path, calls: list[Any]) -> None:
    distributed.init_process_group(
        "gloo", f"file://{folder}/store", rank=worker, world_size=WORKERS
    )
    results = [JOBS[job](worker, folder, *arguments) for job, *arguments in calls]
    torch.save(results, folder / f"{worker}.pt")
    distributed.destroy_process_group()


def train(worker: int, folder: Path, config: Config, images: WindowReader) -> Any:
    return train_in_float64(config, images, worker, WORKERS)


def poll_stop_request(worker: int, folder: Path) -> list[int]:
    """Return the signal polled after each of six steps; worker 1 receives SIGTERM in its third."""
    stop = SynchronisedStopRequest(distributed.new_group(backend="gloo"))
    polled = []
    for step in range(1, 7):
        if (worker, step) == (1, 3):
            stop.received = signal.SIGTERM
        polled.append(int(stop.poll() or 0))
    return polled


def save_and_load(worker: int, folder: Path) -> list[Any]:
    """Save other values in each worker; return the loaded ones, and the gathered ranks."""
    shared = RankZeroCheckpoints(folder / f"of-{worker}", {}, every=1, resume="auto")
    shared.save(Checkpoint(3 + worker, {"weight": torch.tensor([float(worker)])}))
    found = shared.latest()
    assert found is not None
    return [found.step, found.tensors["weight"].item(), all_gather([worker])]


JOBS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (train, poll_stop_request, save_and_load)
}


@pytest.fixture(scope="module")
def configs(make_config: Callable[..., Config]) -> list[Config]:
    """Return trainings of a network with and without preactivation, and of a compiled one."""
    small = {
        "patch": {"canvas_size": 8, "image_size": 8, "patch_size": 4, "targets": 2},
        "model.attention.blocks": 1,
        "pretrain.steps": 3,
    }
    return [
        make_config(small | {"model.preactivation": value, "compute.compile": compiled})
        for value, compiled in ((True, "never"), (False, "never"), (True, "always"))
    ]


@dataclass(frozen=True)
class Answers:
    """What the jobs returned, in the order of the workers."""

    folder: Path
    trained: list[list[tuple[Tensor, Tensors]]]
    polled: list[list[int]]
    loaded: list[list[Any]]


@pytest.fixture(scope="module")
def answers(configs: list[Config], tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Run all jobs, one after another, in processes that are started once."""
    folder = tmp_path_factory.mktemp("workers")
    calls = [("train", config, images_of(config)) for config in configs]
    others = [("poll_stop_request",), ("save_and_load",)]
    multiprocessing.spawn(run_worker, (folder, [*calls, *others]), nprocs=WORKERS)
    results = [torch.load(folder / f"{worker}.pt", weights_only=True) for worker in range(WORKERS)]
    *trained, polled, loaded = ([*job] for job in zip(*results, strict=True))
    return Answers(folder, trained, polled, loaded)


@pytest.mark.parametrize("index", [0, 1, 2], ids=["preactivation", "postactivation", "compiled"])
def test_two_workers_compute_the_training_of_one(
    answers: Answers, configs: list[Config], index: int
) -> None:
    """Losses, weights and statistics are equal in float64, with synchronised BatchNorm."""
    config = configs[index]
    expected_losses, expected = train_in_float64(config, images_of(config), 0, 1)

    for losses, tensors in answers.trained[index]:
        torch.testing.assert_close(losses, expected_losses)
        assert tensors.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(tensors[name], tensor, msg=name)


def test_all_workers_stop_after_the_same_step(answers: Answers) -> None:
    term = int(signal.SIGTERM)
    assert answers.polled == [[0, 0, 0, term, term, term]] * WORKERS


def test_only_rank_zero_writes_checkpoints(answers: Answers) -> None:
    assert answers.loaded == [[3, 0.0, [[0], [1]]]] * WORKERS
    (folder,) = answers.folder.glob("of-*")
    assert folder.name.startswith("of-0-")
    assert {path.name for path in folder.iterdir()} == {
        "step-000000003.json",
        "step-000000003.safetensors",
    }


class Grids:
    """Patch grids of random pixels, in memory."""

    grid = (2, 2)
    mean = np.full(3, 0.5, dtype=np.float32)
    std = np.full(3, 0.25, dtype=np.float32)
    patches = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (20, 4, 3, 4, 4), dtype=np.uint8)
    )

    def gather(self, rows: np.ndarray) -> Tensor:
        return self.patches[torch.from_numpy(rows)]


def images_of(config: Config) -> WindowReader:
    return WindowReader(Grids(), config.patch, config.augmentation)
