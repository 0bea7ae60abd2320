"""Tests of the pipeline `export` through the command line, and of the exported files."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from selfie_pipeline.config import ModelConfig, PatchConfig
from selfie_pipeline.models import export
from selfie_pipeline.models.classifier import restore_classifier
from selfie_pipeline.models.selfie import Selfie

HYBRID = "finetune.architecture=resnet36_attention"


def run_export(project: Any, *stages: str, params: str = "seed=0") -> Path:
    """Return the folder that a run of the stages and the export creates."""
    pipelines = ",".join([*stages, "export"])
    project.succeed(f"--pipelines={pipelines}", f"--params={params}")
    (folder,) = (project.path / "data/06_models").rglob("exported_classifier/*/exported_classifier")
    assert isinstance(folder, Path)
    return folder


def draw_photograph(height: int, width: int) -> Image.Image:
    """Return an image that fits no canvas: smooth colours, and some noise."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(60, 200, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height)), dtype=np.int64)
    noise = rng.integers(-8, 8, smooth.shape)
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


def check_onnx(project: Any, folder: Path) -> None:
    """Assert that ONNX Runtime alone gives the probabilities that `predict` gives for files."""
    session = onnxruntime.InferenceSession(folder / "classifier.onnx")
    photographs = project.path / "photographs"
    photographs.mkdir()
    sizes = [(32, 32), (20, 50), (90, 91), (480, 640), (700, 260)]
    for height, width in sizes:
        draw_photograph(height, width).save(photographs / f"{height}x{width}.png")
    project.succeed("--pipeline=predict", f"--params=images={photographs}")
    predictions = project.load("image_predictions")
    assert len(predictions) == len(sizes)
    for row in predictions.to_dict("records"):
        image = np.asarray(Image.open(photographs / row["file"]))
        (found,) = session.run(None, {"image": image})
        assert str(found.argmax()) == row["class"]
        assert found.max() == pytest.approx(row["probability"], abs=1e-3)


@torch.inference_mode()
def infer(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = network.eval()(images)
    return out


def list_file_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def restore(project: Any, arm: str = "selfie") -> Any:
    weights = project.load(f"{arm}_classifier")
    return restore_classifier(weights.tensors, weights.provenance)


def test_a_resnet_runs_in_plain_timm_and_in_onnx_runtime(finished: Any) -> None:
    folder = run_export(finished, params="export.licence=cc-by-4.0")

    assert list_file_names(folder) == {
        *("README.md", "classifier.onnx", "encoder.safetensors", "load.py"),
        "resnetv2.safetensors",
    }
    images = torch.randn(3, 3, 32, 32)
    expected = infer(restore(finished), images)
    loader = runpy.run_path(str(folder / "load.py"))
    found = infer(loader["load_classifier"](), images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    check_onnx(finished, folder)
    assert loader["CLASSES"] == [str(digit) for digit in range(10)]
    assert loader["MEAN"] == pytest.approx(finished.load("patch_grids").mean.tolist())
    encoder = finished.load("encoder")
    made_with = encoder.provenance["configuration"]
    network = Selfie(
        ModelConfig.model_validate(made_with["model"]),
        PatchConfig.model_validate(made_with["patch"]),
    )
    network.load_state_dict(encoder.tensors, strict=True)
    vectors = infer(network.patch_network, images)
    found = infer(loader["load_encoder"](), images)
    torch.testing.assert_close(found, vectors, rtol=1e-4, atol=1e-4)
    card = (folder / "README.md").read_text("utf-8")
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "cc-by-4.0"
    assert f"{100 * finished.load('selfie_metrics')['accuracy']:.2f} %" in card
    assert (folder / "load.py").read_text("utf-8") in card


def test_the_other_arms_are_exported_without_an_encoder(finished: Any) -> None:
    (file,) = (finished.path / "data/06_models").rglob("supervised/*/*/*/*/classifier.safetensors")
    params = f"weights={file},compute.precision=fp32"
    finished.succeed("--pipelines=finetune_weights,export_weights", f"--params={params}")
    finished.succeed("--pipeline=export_baseline")
    images = torch.randn(3, 3, 32, 32)

    for arm in ("supervised", "weights"):
        (folder,) = (finished.path / "data/06_models").rglob(f"{arm}/**/exported_classifier/*/*")
        assert list_file_names(folder) == {
            *("README.md", "classifier.onnx", "load.py", "resnetv2.safetensors"),
        }
        loader = runpy.run_path(str(folder / "load.py"))
        found = infer(loader["load_classifier"](), images)
        torch.testing.assert_close(found, infer(restore(finished, arm), images), rtol=0, atol=1e-4)


def test_a_hybrid_runs_in_onnx_runtime(finished: Any) -> None:
    folder = run_export(finished, "finetune", params=HYBRID)

    assert list_file_names(folder) == {"README.md", "classifier.onnx"}
    check_onnx(finished, folder)
    assert "timm has no network like this one" in (folder / "README.md").read_text("utf-8")


def test_the_example_of_the_card_runs_without_this_project(finished: Any) -> None:
    folder = run_export(finished)
    draw_photograph(300, 200).save(folder / "photograph.jpg")
    card = (folder / "README.md").read_text("utf-8")
    examples = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    (example,) = [code for code in examples if "onnxruntime" in code]
    assert len(example.splitlines()) <= 12

    printed = subprocess.run(
        [sys.executable, "-c", f"{example}\nimport sys; assert 'torch' not in sys.modules"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert re.fullmatch(r"\d: \d+\.\d%\n", printed)


def test_onnx_has_the_classes_and_the_provenance(finished: Any) -> None:
    folder = run_export(finished)

    session = onnxruntime.InferenceSession(folder / "classifier.onnx")
    metadata = session.get_modelmeta().custom_metadata_map

    assert json.loads(metadata["classes"]) == [str(digit) for digit in range(10)]
    weights = finished.load("selfie_classifier")
    provenance = json.loads(metadata["provenance"])
    assert provenance == {**weights.provenance, "classifier": weights.digest()}


def refuse_export(project: Any) -> str:
    """Assert that the export fails without changing a file, and return its error."""
    before = project.files()
    error: str = project.refuse("--pipeline=export")
    assert project.files() == before
    return error


def test_a_missing_library_is_named_with_its_installation(
    finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    line = refuse_export(finished)

    assert line.startswith("Error: the export to ONNX needs onnxruntime, which is not installed")
    assert '--editable ".[export]"`' in line


def test_a_deviating_onnx_file_is_not_written(
    finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)

    assert "ONNX Runtime's probabilities differ from PyTorch's by" in refuse_export(finished)


def test_a_classifier_of_another_encoder_is_not_exported(finished: Any) -> None:
    finished.run("pretrain", params="pretrain.seed=1")

    assert "the classifier was finetuned from a different encoder" in refuse_export(finished)
