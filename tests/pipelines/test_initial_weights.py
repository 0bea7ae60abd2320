"""Tests of given weights as initial ones: finetuning, pretraining, and four arms together."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from selfie_pipeline.models.backbone import build_resnet
from selfie_pipeline.models.export import select_patch_network

ARMS = "experiment.arms=[supervised,selfie,weights,weights_selfie]"
ONE = "experiment.labeled_fracs=[0.05],experiment.seeds=[0]"


def save_resnet(make_config: Any, file: Path, seed: int = 0) -> str:
    """Save a ResNet of the tiny recipe's size for 1,000 classes, and return its file's SHA-256."""
    torch.manual_seed(seed)
    save_file(build_resnet(make_config().model, 1000).state_dict(), file)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_encoder_as_given_weights_is_finetuning_from_the_encoder(
    finished: Any, tmp_path: Path
) -> None:
    save_file(select_patch_network(finished.load("encoder").tensors), tmp_path / "p.safetensors")

    finished.run("finetune_weights", params=f"weights={tmp_path}/p.safetensors")

    ours, theirs = finished.load("weights_classifier"), finished.load("selfie_classifier")
    assert all(torch.equal(tensor, theirs.tensors[name]) for name, tensor in ours.tensors.items())
    assert ours.provenance["encoder"] is None
    metrics = finished.load("weights_metrics")
    assert metrics["arm"] == "weights"
    assert metrics["correct"] == finished.load("selfie_metrics")["correct"]


def test_pretraining_begins_from_the_given_weights(
    finished: Any, tmp_path: Path, make_config: Any
) -> None:
    digest = save_resnet(make_config, tmp_path / "net.safetensors")
    params = f"pretrain.weights={tmp_path}/net.safetensors"
    before = finished.load("encoder")

    finished.run("pretrain", "finetune", params=params)

    begun = finished.load("encoder", params)
    assert begun.provenance["configuration"]["pretrain"]["weights"] == digest
    assert finished.load("encoder").digest() == before.digest() != begun.digest()
    assert finished.load("selfie_metrics", params)["arm"] == "weights_selfie"
    assert str(tmp_path) not in str(begun.provenance)
    error = finished.refuse("--pipeline=ratio", f"--params={params}")
    assert "ratio compares encoders that were pretrained from scratch; leave" in error


@pytest.mark.slow
def test_four_starts_side_by_side(finished: Any, tmp_path: Path, make_config: Any) -> None:
    file = tmp_path / "net.safetensors"
    save_resnet(make_config, file)
    params = f"{ONE},{ARMS},weights={file}"
    assert f"--params pretrain.weights={file}" in finished.refuse(
        "--pipeline=experiment", f"--params={params}"
    )
    finished.run("pretrain", params=f"pretrain.weights={file}")

    done = finished.succeed("--pipeline=experiment", f"--params={params}")

    arms = ["supervised", "selfie", "weights", "weights_selfie"]
    assert finished.load("results_table")["arm"].tolist() == arms
    assert finished.load("results_table")["pairs"].isna().tolist() == [True, False, False, False]
    assert "given weights, Selfie" in done.output
    status = finished.load("experiment_cells")["status"]
    assert status.tolist() == ["kept", "kept", "done", "done"]

    save_resnet(make_config, file, seed=1)  # a changed file is another one
    changed = f"{ONE},experiment.arms=[supervised,selfie,weights],weights={file}"
    finished.run("experiment", params=changed)
    assert finished.load("experiment_cells")["status"].tolist() == ["kept", "kept", "done"]
    assert finished.load("results_table")["seeds"].tolist() == [1, 1, 1]
    line = finished.refuse("--pipeline=experiment", f"--params={params}")
    assert "with the options of this run (the latest has pretrain.weights: " in line


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04, a pickle", b"\xff" * 20])
def test_a_file_that_is_no_safetensors_is_refused(
    finished: Any, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "net.pth"
    if content is not None:
        file.write_bytes(content)

    line = finished.refuse("--pipeline=finetune_weights", f"--params=weights={file}")

    assert f"weights = {file} can't be read: " in line
    assert line.endswith("allowed: a safetensors file")


def test_arms_need_their_weights(finished: Any, tmp_path: Path, make_config: Any) -> None:
    assert "weights = null" in finished.refuse("--pipeline=finetune_weights")
    assert "set weights=FILE" in finished.refuse("--pipeline=experiment", f"--params={ARMS}")
    save_resnet(make_config, tmp_path / "net.safetensors")
    params = f"pretrain.weights={tmp_path}/net.safetensors,model.stem=standard"
    line = finished.refuse("--pipeline=pretrain", f"--params={params}")
    assert "1 of 58 tensors differ in shape: stem.conv.weight is 8×3×3×3 instead of 8×3×7×7" in line
