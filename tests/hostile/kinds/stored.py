"""Damaged outputs that the program reads back: patch grids, weights and checkpoints."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hypothesis import strategies as st
from kedro.io.core import DatasetError, Version
from tests.hostile.damage import JUNK, damaged_bytes, damaged_json, damaged_tree
from tests.hostile.inputs import Input, Kind, WrongResultError
from tests.hostile.kinds.parameters import default_parameters

from selfie_pipeline.config import Config, UserError, load_config
from selfie_pipeline.datasets import patch_grid_shards
from selfie_pipeline.datasets.patch_grid_shards import PendingPatchGrids, write_version
from selfie_pipeline.datasets.patch_grids import PatchGridDataset, PatchGrids, check_pixels
from selfie_pipeline.datasets.weights import WeightsDataset
from selfie_pipeline.models.classifier import restore_classifier
from selfie_pipeline.models.preprocessing import load_preprocessing
from selfie_pipeline.models.selfie import Selfie
from selfie_pipeline.pipelines.embed.nodes import load_encoder
from selfie_pipeline.pipelines.finetune.nodes import initialise
from selfie_pipeline.provenance import dump_configuration
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.batches import WindowReader
from selfie_pipeline.training.data.randomness import seeded_initialisation
from selfie_pipeline.training.device import find_device
from selfie_pipeline.training.finetuning import initialise_classifier
from selfie_pipeline.training.pretraining import pretrain
from selfie_pipeline.weights import Weights

_ROWS = 6
_SIZE = 16
_SMALL_SHARD = 2 * 3 * _SIZE**2


@cache
def small_config() -> Config:
    parameters = default_parameters()
    parameters["patch"] = {"canvas_size": 16, "image_size": 16, "patch_size": 4, "targets": 4}
    parameters["labeled_frac"] = 1.0
    parameters["experiment"]["labeled_fracs"] = [1.0]
    parameters["tune"]["validation_share"] = 0.5
    parameters["model"] |= {"width": 8}
    parameters["model"]["attention"] |= {"blocks": 1, "heads": 2, "intermediate": 8}
    parameters["pretrain"] |= {
        "steps": 3,
        "batch_size": 2,
        "warmup_steps": 1,
        "checkpoint_every": 1,
    }
    return load_config(parameters)


@cache
def _pixels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return patch grids, (M, N, C, P, P)."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (_ROWS, 16, 3, 4, 4), dtype=np.uint8)


@contextmanager
def _small_shards() -> Iterator[None]:
    """Write shards of two images."""
    before = patch_grid_shards.SHARD_BYTES
    patch_grid_shards.SHARD_BYTES = _SMALL_SHARD
    try:
        yield
    finally:
        patch_grid_shards.SHARD_BYTES = before


def _pending() -> PendingPatchGrids:
    def chunks(start: int) -> Iterator[tuple[Any, Mapping[int, str]]]:
        for row in range(start, _ROWS):
            yield _pixels()[row : row + 1], {}

    rows = np.ones(_ROWS, dtype=bool)
    return PendingPatchGrids("f00d", _ROWS, (4, 4), 4, chunks, rows)


@cache
def grid_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name, _small_shards():
        folder = Path(name, "grids")
        write_version(_pending(), folder)
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@st.composite
def _grids(draw: st.DrawFn) -> Input:
    files = dict(grid_files())
    name = draw(st.sampled_from(["manifest.json"] * 4 + sorted(files)))
    if name == "manifest.json":
        files[name], how = draw(damaged_json(json.loads(files[name])))
    else:
        how = draw(st.sampled_from(["damaged", "removed", "swapped"]))
        if how == "damaged":
            files[name], how = draw(damaged_bytes(files[name]))
        elif how == "removed":
            del files[name]
        else:
            files[name], files["shard-00000.npy"] = files["shard-00000.npy"], files[name]
    return Input(f"{name}: {how}", _in_version("patch_grids", files), name)


def _in_version(entry: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{entry}/2026-01-01T00.00.00.000Z/{entry}/{name}": files[name] for name in files}


def _load_grids(item: Input, folder: Path) -> None:
    data = PatchGridDataset(filepath=str(folder / "input/patch_grids"), version=Version(None, None))
    grids: PatchGrids = data.load()
    rows = np.arange(len(grids), dtype=np.int64)
    found = grids.gather(rows).numpy()
    if len(grids) != _ROWS or not np.array_equal(found, _pixels()):
        raise WrongResultError("the pixels are others")
    intact = json.loads(grid_files()["manifest.json"])
    for name in ("mean", "std"):
        if not np.array_equal(getattr(grids, name), np.array(intact[name], np.float32)):
            raise WrongResultError(f"{name} is another")
    if grids.grid != (4, 4) or grids.unreadable or grids.fingerprint != "f00d":
        raise WrongResultError("the grid, the fingerprint or the unreadable samples are others")


@cache
def _unfinished() -> dict[str, bytes]:
    """Return the files that a killed process leaves after four of the six images."""

    class KilledError(Exception):
        pass

    pending = _pending()

    def chunks(start: int) -> Iterator[tuple[Any, Mapping[int, str]]]:
        yield _pixels()[:4], {}
        raise KilledError

    with tempfile.TemporaryDirectory() as name, _small_shards():
        folder = Path(name, "grids")
        before, patch_grid_shards.PROGRESS_INTERVAL_S = patch_grid_shards.PROGRESS_INTERVAL_S, -1.0
        try:
            write_version(PendingPatchGrids(**{**pending.__dict__, "chunks": chunks}), folder)
        except KilledError:
            return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        finally:
            patch_grid_shards.PROGRESS_INTERVAL_S = before
    raise AssertionError("it was not killed")


@st.composite
def _progress(draw: st.DrawFn) -> Input:
    grid_files()  # made now, because an input that is tried must not write elsewhere
    files = dict(_unfinished())
    name = draw(st.sampled_from(["progress.json"] * 3 + sorted(files)))
    if name == "progress.json":
        files[name], how = draw(damaged_json(json.loads(files[name])))
    else:
        files[name], how = draw(damaged_bytes(files[name]))
    return Input(f"{name}: {how}", files, name)


def _resume(item: Input, folder: Path) -> None:
    """Resume writing the damaged patch grids."""
    target = folder / "data" / "grids"
    (folder / "input").rename(target)
    with _small_shards():
        write_version(_pending(), target)
    check_pixels(target)  # as before the first use
    found = PatchGrids(target).gather(np.arange(_ROWS, dtype=np.int64)).numpy()
    if not np.array_equal(found, _pixels()):
        raise WrongResultError("the pixels are others")
    if (target / "manifest.json").read_bytes() != grid_files()["manifest.json"]:
        raise WrongResultError("the manifest is another")


@cache
def _weights() -> dict[str, Weights]:
    config = small_config()
    settings = dump_configuration(
        patch=config.patch, augmentation=config.augmentation, model=config.model,
        pretrain=config.pretrain, finetune=config.finetune,
    )  # fmt: skip
    common = {
        "configuration": settings, "data": "f00d", "pretraining_images": 4, "seed": 0, "labels": 4,
        "mean": [0.5] * 3, "std": [0.25] * 3, "classes": ["cat", "dog"], "tuned": {},
    }  # fmt: skip
    with seeded_initialisation(0):
        encoder = Weights(Selfie(config.model, config.patch).state_dict(), common)
    network = initialise_classifier(config.model, "resnet", config.patch, 2, 0)
    return {
        "encoder": encoder,
        "classifier": Weights(network.state_dict(), {**common, "encoder": "beef"}),
    }


@cache
def _weight_file(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.safetensors")
        WeightsDataset(filepath=str(path)).save(_weights()[name])
        return path.read_bytes()


def _split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the tensors' bytes of a safetensors file."""
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _join(header: Any, tensors: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


@st.composite
def _damaged_weights(draw: st.DrawFn) -> Input:
    name = draw(st.sampled_from(["encoder", "classifier"]))
    content = _weight_file(name)
    how = draw(st.sampled_from(["bytes", "bytes", "header", "origin", "provenance", "provenance"]))
    if how == "bytes":
        content, how = draw(damaged_bytes(content))
    else:
        header, tensors = _split(content)
        if how == "header":
            header = draw(damaged_tree(header))
        else:
            origin = json.loads(header["__metadata__"]["origin"])
            if how == "origin":
                origin = draw(st.one_of(JUNK, damaged_tree(origin)))
            else:
                origin["provenance"] = draw(damaged_tree(origin["provenance"]))
            header["__metadata__"]["origin"] = json.dumps(origin)
        content = _join(header, tensors)
    return Input(f"{name}: {how}", {"weights.safetensors": content}, (name, how))


def _load_weights(item: Input, folder: Path) -> None:
    name, how = item.value
    loaded = WeightsDataset(filepath=str(folder / "input/weights.safetensors")).load()
    intact = _weights()[name]
    same = loaded.tensors.keys() == intact.tensors.keys() and all(
        torch.equal(tensor, intact.tensors[key]) for key, tensor in loaded.tensors.items()
    )
    if not same:
        raise WrongResultError("the tensors are others")
    if " at " in how and loaded.provenance != intact.provenance:
        raise WrongResultError("the provenance is another")
    _USES[name](loaded)


def _use_encoder(encoder: Weights) -> None:
    config = small_config()
    samples = pd.DataFrame({"label": [0, 1]})
    initialise(samples, config.patch, config.model, config.finetune, 0, encoder)
    load_encoder(encoder, config.patch, config.embed)


def _use_classifier(classifier: Weights) -> None:
    load_preprocessing(classifier.provenance)
    restore_classifier(classifier.tensors, classifier.provenance)


_USES: dict[str, Callable[[Weights], None]] = {
    "encoder": _use_encoder,
    "classifier": _use_classifier,
}


class _ArrayGrids:
    """Patch grids in memory."""

    grid = (4, 4)
    mean = np.full(3, 0.5, np.float32)
    std = np.full(3, 0.25, np.float32)

    def gather(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> torch.Tensor:
        return torch.from_numpy(_pixels()[rows])


def _open_checkpoints(folder: Path) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", {"data": "f00d"}, every=1, resume="auto")


def _train(state: Checkpoints) -> dict[str, torch.Tensor]:
    """Pretrain for three steps, or resume from a checkpoint."""
    config = small_config()
    images = WindowReader(_ArrayGrids(), config.patch, config.augmentation)
    rows, device = np.arange(_ROWS), find_device(config.compute)
    return pretrain(config.model, config.pretrain, images, rows, device, state).tensors


@cache
def _trained() -> tuple[dict[str, torch.Tensor], dict[str, bytes]]:
    """Return the weights of an undisturbed training, and its checkpoints."""
    with tempfile.TemporaryDirectory() as name:
        state = _open_checkpoints(Path(name))
        tensors, files = _train(state), sorted(state.folder.iterdir())
        return tensors, {path.name: path.read_bytes() for path in files}


@st.composite
def _checkpoints(draw: st.DrawFn) -> Input:
    files = dict(_trained()[1])
    for name in [
        name for name in files if not name.startswith(("step-000000001", "step-000000002"))
    ]:
        del files[name]
    name = draw(st.sampled_from(sorted(files)))
    if name.endswith(".json"):
        files[name], how = draw(damaged_json(json.loads(files[name])))
    else:
        how = draw(st.sampled_from(["damaged", "removed", "swapped"]))
        if how == "damaged":
            files[name], how = draw(damaged_bytes(files[name]))
        elif how == "removed":
            del files[name]
        else:
            other = next(key for key in files if key.endswith("rs") and key != name)
            files[name], files[other] = files[other], files[name]
    return Input(f"{name}: {how}", files, name)


def _resume_training(item: Input, folder: Path) -> None:
    checkpoints = _open_checkpoints(folder / "data")
    (folder / "input").rename(checkpoints.folder)
    found = _train(checkpoints)
    expected = _trained()[0]
    if not all(torch.equal(found[name], expected[name]) for name in expected):
        raise WrongResultError("the resumed training has other weights")


_REFUSALS = (UserError, DatasetError)
KINDS = [
    Kind("stored/patch grids", _grids(), _load_grids, _REFUSALS, share=60),
    Kind("stored/unfinished grids", _progress(), _resume, _REFUSALS, share=40),
    Kind("stored/weights", _damaged_weights(), _load_weights, _REFUSALS, share=60),
    Kind("stored/checkpoints", _checkpoints(), _resume_training, _REFUSALS, share=20),
]
