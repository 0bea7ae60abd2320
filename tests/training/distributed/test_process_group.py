"""A step that several workers compute together, as processes of torch.distributed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, multiprocessing

from selfie_pipeline.config import Config
from selfie_pipeline.models.selfie import Selfie
from selfie_pipeline.training.checkpoints import Checkpoint
from selfie_pipeline.training.data.batches import Batches, Images
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

pytestmark = pytest.mark.slow  # processes of their own

WORKERS = 2
Tensors = dict[str, Tensor]


def in_float64(config: Config, images: Images, worker: int, workers: int) -> tuple[Any, Tensors]:
    """Losses of three steps, and what the network has become: its weights and statistics."""
    torch.set_num_threads(1)
    recipe = config.pretrain
    with seeded_initialisation(recipe.seed):
        network = Selfie(config.model, config.patch)
    task = PretrainingTask(network, recipe, images).double()
    if workers > 1:
        synchronise_batch_norm(network, "cpu")
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


def work(worker: int, folder: Path, job: str, *arguments: Any) -> None:
    distributed.init_process_group(
        "gloo", f"file://{folder}/meeting", rank=worker, world_size=WORKERS
    )
    torch.save(JOBS[job](worker, folder, *arguments), folder / f"{worker}.pt")
    distributed.destroy_process_group()


def train(worker: int, folder: Path, config: Config, images: Images) -> Any:
    return in_float64(config, images, worker, WORKERS)


def agree(worker: int, folder: Path) -> list[int]:
    """The second worker is asked to stop after its third step."""
    stop = SynchronisedStopRequest(distributed.new_group(backend="gloo"))
    told = []
    for step in range(1, 7):
        if (worker, step) == (1, 3):
            stop.received = signal.SIGTERM
        told.append(int(stop.poll() or 0))
    return told


def share(worker: int, folder: Path) -> list[Any]:
    """Both save at another value; what counts is the first worker's."""
    shared = RankZeroCheckpoints(folder / f"of-{worker}", {}, every=1, resume="auto")
    shared.save(Checkpoint(3 + worker, {"weight": torch.tensor([float(worker)])}))
    shared.write_record("note", {"worker": worker})
    found = shared.latest()
    assert found is not None
    return [found.step, found.tensors["weight"].item(), all_gather([worker])]


JOBS: dict[str, Callable[..., Any]] = {"train": train, "agree": agree, "share": share}


def together(folder: Path, job: str, *arguments: Any) -> list[Any]:
    multiprocessing.spawn(work, (folder, job, *arguments), nprocs=WORKERS)
    return [torch.load(folder / f"{worker}.pt", weights_only=True) for worker in range(WORKERS)]


@pytest.mark.parametrize("preactivation", [True, False])
def test_two_workers_compute_what_one_does(
    make_config: Callable[..., Config], tmp_path: Path, preactivation: bool
) -> None:
    """In float64, with BatchNorm synchronised: losses, weights and statistics."""
    config = make_config(
        {
            "patch": {"canvas_size": 8, "image_size": 8, "patch_size": 4, "targets": 2},
            "model.preactivation": preactivation,
            "model.attention.blocks": 1,
            "pretrain.steps": 3,
        }
    )
    images = Images(Grids(), config.patch, config.augmentation)
    losses, alone = in_float64(config, images, 0, 1)

    for others, tensors in together(tmp_path, "train", config, images):
        torch.testing.assert_close(others, losses)
        assert tensors.keys() == alone.keys()
        for name, tensor in alone.items():
            torch.testing.assert_close(tensors[name], tensor, msg=name)


def test_all_stop_after_the_same_step(tmp_path: Path) -> None:
    term = int(signal.SIGTERM)
    assert together(tmp_path, "agree") == [[0, 0, 0, term, term, term]] * WORKERS


def test_the_first_worker_keeps_the_checkpoints(tmp_path: Path) -> None:
    assert together(tmp_path, "share") == [[3, 0.0, [[0], [1]]]] * WORKERS
    assert {path.name for path in (tmp_path / "of-0").iterdir()} == {
        "step-000000003.json",
        "step-000000003.safetensors",
        "note.json",
    }
    assert not (tmp_path / "of-1").exists()


class Grids:
    """Stored grids of random pixels."""

    grid = (2, 2)
    mean = np.full(3, 0.5, dtype=np.float32)
    std = np.full(3, 0.25, dtype=np.float32)
    patches = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (20, 4, 3, 4, 4), dtype=np.uint8)
    )

    def gather(self, rows: np.ndarray) -> Tensor:
        return self.patches[torch.from_numpy(rows)]
