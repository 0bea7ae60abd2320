"""Fixtures shared by all tests: parameters with changes to a few keys, images, and results."""

from __future__ import annotations

import copy
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfie_pipeline.config import Config, load_config
from selfie_pipeline.models.patch_grid import patchify
from selfie_pipeline.project import project_path
from selfie_pipeline.sources.digits import Digits
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.batches import WindowReader

_RECIPE = {
    "steps": 4,
    "batch_size": 8,
    "accumulate": 1,
    "peak_learning_rate": 0.05,
    "warmup_steps": 1,
    "momentum": 0.9,
    "weight_decay": 0.0001,
    "clip_norm": None,
    "smallest_crop": None,
    "colour_jitter": 0.0,
    "log_every": 2,
    "checkpoint_every": 100,
}
_PARAMETERS: dict[str, Any] = {
    "labeled_frac": 0.1,
    "seed": 0,
    "resume": "auto",
    "budget": None,
    "pretrained_on": "digits",
    "weights": None,
    "data": {
        "name": "digits",
        "source": "digits",
        "folder": None,
        "labels": None,
        "image_column": None,
        "class_column": None,
        "split_column": None,
        "max_unreadable": 0.01,
        "drop_leaked": False,
    },
    "patch": {"canvas_size": 32, "image_size": 32, "patch_size": 8, "targets": 4},
    "augmentation": {"pad": 2, "flip": True},
    "model": {
        "layers": [1, 1, 1, 1],
        "width": 8,
        "stem": "small",
        "preactivation": True,
        "normalise_before_pooling": True,
        "positions": "table",
        "encoder_positions": True,
        "attention": {
            "blocks": 2,
            "heads": 4,
            "intermediate": 48,
            "dropout": 0.1,
            "attention_dropout": 0.1,
        },
    },
    "pretrain": {"seed": 0, "images": None, "weights": None, **_RECIPE},
    "finetune": {
        **_RECIPE,
        "architecture": "resnet",
        "reestimate_statistics": False,
        "pretrained_rate": 1.0,
        "tuned": [],
    },
    "experiment": {"labeled_fracs": [0.1], "seeds": [0], "arms": ["supervised", "selfie"]},
    "tune": {
        "seed": 0,
        "trials": 2,
        "validation_share": 0.2,
        "space": {"peak_learning_rate": {"low": 0.01, "high": 0.4, "log": True}},
    },
    "ratio": {"images": [100]},
    "images": None,
    "predict": {"arm": "selfie", "runtime": "torch"},
    "embed": {"layer": "stage3", "map": "pca", "points": 50},
    "export": {"licence": "unknown"},
    "suggest": {"count": 10, "candidates": 5},
    "tracking": {"mlflow": "never", "mlflow_uri": None, "tensorboard": False},
    "compute": {
        "accelerator": "cpu",
        "precision": "fp32",
        "compile": "auto",
        "deterministic": False,
        "engine": "local",
        "workers": 1,
        "cpus_per_worker": 1,
        "batch_norm": "synchronised",
        "cells_at_once": 1,
        "cpus_per_cell": 1,
        "gpus_per_cell": 1.0,
        "max_failures": 1,
    },
}
PAPER = {"model.layers": [3, 4, 6, 3], "model.width": 64} | {
    f"model.attention.{key}": value
    for key, value in {"blocks": 3, "heads": 32, "intermediate": 640}.items()
}

MakeParameters = Callable[..., dict[str, Any]]
MakeConfig = Callable[..., Config]


@pytest.fixture(autouse=True)
def _no_project() -> Iterator[None]:
    """Forget the project of the sessions of a test."""
    yield
    project_path.set(None)


@pytest.fixture(scope="session")
def make_parameters() -> MakeParameters:
    """Return a factory of valid parameters: ``make_parameters({"patch.targets": 3})``."""

    def make(changes: dict[str, Any] | None = None) -> dict[str, Any]:
        parameters = copy.deepcopy(_PARAMETERS)
        for key, value in (changes or {}).items():
            *groups, name = key.split(".")
            group = parameters
            for part in groups:
                group = group[part]
            group[name] = value
        return parameters

    return make


@pytest.fixture(scope="session")
def make_config(make_parameters: MakeParameters) -> MakeConfig:
    """Return a factory of typed parameters, with changes by dotted key."""
    return lambda changes=None: load_config(make_parameters(changes))


@pytest.fixture(scope="session")
def paper_config(make_config: MakeConfig) -> Config:
    """Return parameters with networks of the paper's size, for 32×32 images."""
    return make_config(PAPER)


@dataclass
class MemoryGrids:
    """Patch grids in memory that record the requested rows."""

    patches: Tensor
    grid: tuple[int, int]
    requested: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        pixels = self.patches.double() / 255
        self.mean = pixels.mean(dim=(0, 1, 3, 4)).float().numpy()
        self.std = pixels.std(dim=(0, 1, 3, 4), correction=0).float().numpy()

    def gather(self, rows: NDArray[np.int64]) -> Tensor:
        self.requested += rows.tolist()
        return self.patches[torch.from_numpy(rows)]


MakeImages = Callable[..., WindowReader]


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, NDArray[np.int64]]:
    """Return scikit-learn's 1,797 digits: (1797, 3, 32, 32), uint8, and their labels."""
    source = Digits()
    samples = source.samples()
    pixels = torch.from_numpy(
        np.concatenate([chunk.images for chunk in source.images(samples, 32)])
    )
    pixels = pixels.permute(0, 3, 1, 2)  # (1797, 3, 32, 32)
    return pixels.contiguous(), samples["label"].to_numpy(dtype=np.int64, copy=True)


@pytest.fixture
def make_images(digits: tuple[Tensor, NDArray[np.int64]]) -> MakeImages:
    """Return a factory of images: the digits, or other canvases (M, C, H, W)."""

    def make(config: Config, canvases: Tensor = digits[0]) -> WindowReader:
        side = config.patch.canvas_size // config.patch.patch_size
        grids = MemoryGrids(patchify(canvases, config.patch.patch_size), (side, side))
        return WindowReader(grids, config.patch, config.augmentation)

    return make


@pytest.fixture
def no_checkpoints(tmp_path: Path) -> Checkpoints:
    """Return checkpoints of a training that does not resume and saves only at its end."""
    return Checkpoints(tmp_path / "checkpoints", {}, every=10**9, resume="never")


MakeCells = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def make_cells() -> MakeCells:
    """Return a factory of one result per seed: ``make_cells("selfie", {0: 0.8, 1: 0.9})``."""

    def make(arm: str, accuracies: dict[int, float], **other: Any) -> list[dict[str, Any]]:
        common = {
            "data": "digits",
            "network": "ResNet 1-1-1-1, width 16",
            "arm": arm,
            "labeled_frac": 0.05,
            "labels": 63,
            "loss": 0.5,
            "test_samples": 540,
            "configuration": "present",
            "version": "2026-11-22T06.00.00.000Z",
            "provenance": {"device": "a processor", "configuration": {"model": {"width": 16}}},
        }
        return [common | {"seed": s, "accuracy": a} | other for s, a in accuracies.items()]

    return make


@pytest.fixture
def four_seeds(make_cells: MakeCells) -> list[dict[str, Any]]:
    """Return results with gains of 4, 6, 8 and 6 points."""
    return [
        *make_cells("supervised", {0: 0.78, 1: 0.80, 2: 0.79, 3: 0.81}),
        *make_cells("selfie", {0: 0.82, 1: 0.86, 2: 0.87, 3: 0.87}),
    ]


@pytest.fixture
def one_seed(make_cells: MakeCells) -> list[dict[str, Any]]:
    return [*make_cells("supervised", {0: 0.78}), *make_cells("selfie", {0: 0.82})]


@pytest.fixture
def small_disk() -> Callable[[], AbstractContextManager[None]]:
    """A context in which no file can grow beyond 100 bytes; the system raises a real OSError."""

    @contextmanager
    def limit() -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit
