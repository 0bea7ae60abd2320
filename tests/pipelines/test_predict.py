"""Tests of the pipeline `predict` through the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from torch.nn import functional

from selfie_pipeline.pipelines.predict import nodes

SHARED = (Path(__file__).parents[2] / "../shared/data/imagenette-mini").resolve()
PHOTOGRAPHS = (
    "data.source=image_folder,patch.canvas_size=48,labeled_frac=1.0,compute.precision=fp32"
)


def predict(project: Any, folder: Path, params: str = "") -> None:
    project.succeed("--pipeline=predict", f"--params=images={folder},{params}")


def add_photographs(folder: Path) -> Path:
    """Add large and small photographs in both orientations, of two classes in both splits."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for number in range(8):
            path = folder / split / ("cat", "dog")[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            size = ((400, 300), (60, 90))[number // 4]
            Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)
    return folder


def load_recorded(project: Any, arm: str, params: str = "") -> pd.DataFrame:
    """Return the predictions of `test_classifier` with class names instead of labels."""
    samples = project.load("usable_samples", params).set_index("sample")
    named = samples[samples["label"] >= 0].groupby("label")["class_name"].first()
    table = project.load(f"{arm}_predictions", params).set_index("sample")
    return pd.DataFrame(
        {
            "place": samples.loc[table.index, "place"],
            "class": table["predicted"].map(named),
            "probability": table["probability"],
            "runner_up": table["runner_up"].map(named),
        }
    )


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert found["class"].tolist() == expected["class"].tolist()
    assert found["runner_up"].tolist() == expected["runner_up"].tolist()
    np.testing.assert_allclose(found["probability"], expected["probability"], rtol=1e-5)
    assert (found["probability"] >= found["runner_up_probability"]).all()


@pytest.mark.parametrize(
    "make",
    [
        add_photographs,
        pytest.param(
            lambda _: SHARED,
            marks=pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is absent"),
        ),
    ],
    ids=["generated photographs", "real photographs"],
)
def test_files_of_the_test_images_have_the_recorded_predictions(
    fresh: Any, tmp_path: Path, make: Any
) -> None:
    """The canvas is larger than the window here."""
    raw = make(tmp_path / "raw")
    params = f"data.folder={raw},{PHOTOGRAPHS}"
    fresh.succeed("--pipelines=ingest,patch,pretrain,finetune", f"--params={params}")
    expected = load_recorded(fresh, "selfie", params)
    split = expected["place"].iloc[0].split("/")[0]

    predict(fresh, raw / split, f"{PHOTOGRAPHS}")

    found = fresh.load("image_predictions", params).set_index("file")
    assert len(found) == len(expected)
    places = expected["place"].str.removeprefix(f"{split}/")
    assert_same(found.loc[places], expected)
    assert fresh.load("unreadable_images", params).empty


@pytest.fixture
def digit_files(finished: Any, tmp_path: Path) -> Path:
    """Return a folder of the digits' test images, one file per sample."""
    folder = tmp_path / "digits"
    folder.mkdir()
    grids, samples = finished.load("patch_grids"), finished.load("usable_samples")
    rows = samples.loc[samples["split"] == "test", "sample"].to_numpy()
    patches = grids.gather(rows)  # (M, N, C, P, P)
    pixels = patches.flatten(2).mT.unflatten(2, grids.grid)  # (M, C·P·P, R, S)
    images = functional.pixel_shuffle(pixels, patches.shape[-1])  # (M, C, H, W)
    canvases = images.permute(0, 2, 3, 1)  # (M, H, W, C)
    for row, canvas in zip(rows.tolist(), canvases.numpy(), strict=True):
        Image.fromarray(canvas).save(folder / f"{row:04d}.png")
    return folder


def test_either_arm_predicts(finished: Any, digit_files: Path) -> None:
    for arm in ("selfie", "supervised"):
        predict(finished, digit_files, f"predict.arm={arm},compute.precision=fp32")
        # The recorded predictions were computed in the processor's precision.
        found, expected = finished.load("image_predictions"), load_recorded(finished, arm)
        agree = found["class"].to_numpy() == expected["class"].to_numpy()
        assert agree.mean() > 0.97
        np.testing.assert_allclose(found["probability"], expected["probability"], atol=0.03)


def test_onnx_runtime_predicts_the_same(finished: Any, digit_files: Path) -> None:
    predict(finished, digit_files, "compute.precision=fp32")
    expected = finished.load("image_predictions")

    predict(finished, digit_files, "predict.runtime=onnxruntime")

    found = finished.load("image_predictions")
    assert found["file"].tolist() == expected["file"].tolist()
    assert (found["class"] == expected["class"]).mean() > 0.99  # two classes may be equally likely
    np.testing.assert_allclose(found["probability"], expected["probability"], atol=1e-4)


def test_a_missing_onnx_runtime_is_one_line(
    finished: Any, digit_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    params = f"images={digit_files},predict.runtime=onnxruntime"
    error = finished.refuse("--pipeline=predict", f"--params={params}")

    assert error.startswith("Error: the export to ONNX needs onnxruntime, which is not installed")


def test_unreadable_files_are_listed_with_the_reason(finished: Any, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "deep/grey.png")
    png = (folder / "deep/grey.png").read_bytes()
    (folder / "cut.png").write_bytes(png[: len(png) // 2])
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("no image")
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(png)

    predict(finished, folder)

    assert not list((finished.path / "data").rglob("*checkpoints_*"))
    unreadable = finished.load("unreadable_images").set_index("file")["reason"]
    assert unreadable["empty.jpg"] == "empty"
    assert unreadable["notes.txt"] == "not an image"
    assert unreadable["cut.png"].startswith("damaged: ")
    assert finished.load("image_predictions")["file"].tolist() == [r"caf\xe9.png", "deep/grey.png"]


def test_dark_images_and_those_of_several_frames_are_counted_in_the_log(
    finished: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dark = Image.fromarray(np.full((16, 16), 4095, np.uint16))
    dark.save(tmp_path / "dark.tif", save_all=True, append_images=[dark])

    with caplog.at_level("INFO"):
        predict(finished, tmp_path)

    assert "1 images have several frames or pages: the first is used" in caplog.text
    assert "1 images of 16 bits have no value above 16383, so they become dark" in caplog.text


def test_a_folder_without_images_has_an_empty_table(finished: Any, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/notes.txt").touch()

    predict(finished, tmp_path / "images")

    assert finished.load("image_predictions").empty
    assert len(finished.load("unreadable_images")) == 1


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_tables(
    finished: Any, digit_files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after SIGKILL: 4,320 files, of which a block of 2,048 was finished."""
    for file in list(digit_files.iterdir()):
        for copy in range(7):
            os.link(file, digit_files / f"{copy}-{file.name}")
    command = [sys.executable, "-m", "kedro", "run", "--env=tiny", "--pipeline=predict"]
    started = subprocess.Popen(
        [*command, f"--params=images={digit_files}"],
        cwd=finished.path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    output = finished.path / "data/07_model_output/tiny/predict"
    while started.poll() is None and not list(output.glob("checkpoints_*/step-*.json")):
        time.sleep(0.01)
    started.kill()
    assert started.wait() == -signal.SIGKILL
    assert not finished.versions("image_predictions")

    with caplog.at_level("INFO"):
        predict(finished, digit_files)
    resumed = tables(finished)
    assert "predict: resumes after 2048 of 4320 files" in caplog.text
    assert not list(output.glob("*checkpoints_*"))

    predict(finished, digit_files)
    assert tables(finished) == resumed


def tables(project: Any) -> dict[str, bytes]:
    """Return the latest version of each table of predictions."""
    names = ("image_predictions", "unreadable_images")
    return {name: Path(project.catalog()[name]._get_load_path()).read_bytes() for name in names}


def test_the_contact_sheet_is_a_picture(finished: Any, digit_files: Path) -> None:
    predict(finished, digit_files)

    (sheet,) = (finished.path / "data/08_reporting").rglob("*/contact_sheet.png/*/*.png")
    with Image.open(sheet) as picture:
        assert picture.width > 1000
        assert picture.height > 1000


def test_a_file_that_is_deleted_meanwhile_is_not_in_the_contact_sheet(
    finished: Any, digit_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classify = nodes.classify_in_blocks

    def delete_then_return(*arguments: Any) -> Any:
        found = classify(*arguments)
        for file in sorted(digit_files.iterdir())[:530]:
            file.unlink()
        return found

    monkeypatch.setattr(nodes, "classify_in_blocks", delete_then_return)

    predict(finished, digit_files)

    assert len(finished.load("image_predictions")) == 540


def test_a_folder_is_relative_to_the_project(finished: Any, digit_files: Path) -> None:
    digit_files.rename(finished.path / "digits")

    predict(finished, Path("digits"))

    assert len(finished.load("image_predictions")) == 540


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ("seed=0", "images is not set; name the folder of the images to classify: `kedro run "),
        ("images=nowhere", "nowhere does not exist; allowed: a folder of image files"),
        ("images=conf,predict.arm=both", "predict.arm = 'both' is not allowed; allowed: "),
        ("images=conf,seed=7", "create it with `kedro run --pipeline=finetune"),
    ],
)
def test_impossible_predictions_are_refused_in_one_line(
    finished: Any, params: str, line: str
) -> None:
    before = finished.files()

    error = finished.refuse("--pipeline=predict", f"--params={params}")

    assert line in error
    assert finished.files() == before


def test_an_arm_other_than_that_of_the_catalog_is_refused(finished: Any, digit_files: Path) -> None:
    """The catalog's paths ignore an arm that is set in the parameters of an environment."""
    with (finished.path / "conf/tiny/parameters.yml").open("a") as file:
        file.write("predict: {arm: supervised}\n")

    error = finished.refuse("--pipeline=predict", f"--params=images={digit_files}")

    assert "predict.arm = supervised is set in a file of parameters, but the catalog's" in error
