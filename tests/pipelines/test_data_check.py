"""Tests of the check of the data, and of training without leaked images, on files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kedro.framework.session import KedroSession
from PIL import Image
from sklearn.datasets import load_sample_images

from selfie_pipeline.training.lineage import fingerprint_data

PHOTOGRAPH = Image.fromarray(load_sample_images().images[0])
TINY = (
    "model.width=8,model.layers=[1,1,1,1],model.attention.blocks=1,model.attention.heads=4,"
    "model.attention.intermediate=16,labeled_frac=1.0,tracking.mlflow=never,"
    "pretrain.steps=2,pretrain.warmup_steps=1,pretrain.batch_size=4,"
    "finetune.steps=2,finetune.warmup_steps=1,finetune.batch_size=4"
)


def cut(path: Path, number: int) -> Path:
    """Cut a square out of a photograph that shares no pixel with those of other numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x, y = 100 * (number % 6), 100 * (number // 6)
    PHOTOGRAPH.crop((x, y, x + 100, y + 100)).save(path)
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Return a folder with 12 training, 4 test and 2 unlabeled images, and one of these twice each.

    cat/0 is in the test split as it is, dog/1 in a smaller JPEG, unlabeled/0 as it is; dog/1 is
    also in unlabeled/, and dog/3 twice in train/.
    """
    folder = tmp_path / "raw"
    for number in range(12):
        cut(folder / "train" / ("cat", "dog")[number % 2] / f"{number}.png", number)
    for number in range(12, 16):
        cut(folder / "test" / ("cat", "dog")[number % 2] / f"{number}.png", number)
    for number in (16, 17):
        cut(folder / "unlabeled" / f"{number}.png", number)
    cut(folder / "test/cat/0.png", 0)
    with Image.open(folder / "train/dog/1.png") as image:
        image.resize((60, 60)).save(folder / "test/dog/1.jpg", quality=80)
    cut(folder / "test/cat/16.png", 16)
    cut(folder / "unlabeled/1.png", 1)
    cut(folder / "train/dog/3-copy.png", 3)
    return folder


Run = Callable[[str, str], Any]


@pytest.fixture
def run(fresh: Any, raw: Path) -> Run:
    """Return a function that runs pipelines on the folder and returns the catalog."""

    def run_pipelines(pipelines: str, params: str) -> Any:
        params = f"data.folder={raw},{TINY},{params}"
        fresh.succeed("--env=image_folder", f"--pipelines={pipelines}", f"--params={params}")
        values = {"labeled_frac": 1.0}
        session = KedroSession.create(fresh.path, env="image_folder", runtime_params=values)
        with session:
            return session.load_context().catalog

    return run_pipelines


def test_images_in_two_splits_are_found(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "selfie_pipeline")
    catalog = run("ingest,patch", "data.drop_leaked=false")

    pairs = catalog.load("duplicates")
    assert set(zip(pairs["first_place"], pairs["second_place"], pairs["kind"], strict=True)) == {
        ("train/cat/0.png", "test/cat/0.png", "exact"),
        ("train/dog/1.png", "test/dog/1.jpg", "near"),
        ("train/dog/1.png", "unlabeled/1.png", "exact"),
        ("unlabeled/16.png", "test/cat/16.png", "exact"),
        ("unlabeled/1.png", "test/dog/1.jpg", "near"),
    }
    check = catalog.load("data_check")
    assert [(s["split"], s["images"], s["classes"], s["copies"]) for s in check["splits"]] == [
        ("train", 13, 2, 1),
        ("test", 7, 2, 0),
        ("unlabeled", 3, 0, 0),
    ]
    found = {(o["first"], o["second"]): (o["exact"], o["near"]) for o in check["overlaps"]}
    assert found == {
        ("train", "test"): (1, 1),
        ("unlabeled", "test"): (1, 1),
        ("train", "unlabeled"): (1, 0),
    }
    (line,) = [message for message in caplog.messages if message.startswith("data: train")]
    assert "2 training images (1 by their pixels, 1 nearly) are also among the test images" in line
    assert len(catalog.load("usable_samples")) == 23


def test_training_does_without_leaked_images_if_asked(run: Run) -> None:
    catalog = run("ingest,patch,pretrain,finetune", "data.drop_leaked=true")

    usable = catalog.load("usable_samples")
    assert set(catalog.load("samples")["place"]) - set(usable["place"]) == {
        *("train/cat/0.png", "train/dog/1.png", "unlabeled/16.png", "unlabeled/1.png")
    }
    assert (usable["split"] == "test").sum() == 7
    assert catalog.load("data_check")["dropped"] == 4
    encoder = catalog.load("encoder")
    assert encoder.provenance["pretraining_images"] == 13 - 2 + 3 - 2
    grids = catalog.load("patch_grids")
    assert encoder.provenance["data"] == fingerprint_data(grids, usable) != grids.fingerprint
    assert fingerprint_data(grids, catalog.load("samples")) == grids.fingerprint
    metrics = catalog.load("selfie_metrics")
    assert metrics["provenance"]["data"] == encoder.provenance["data"]
    assert metrics["test_samples"] == 7


def test_an_encoder_that_had_what_is_dropped_now_is_noticed(
    run: Run, fresh: Any, caplog: pytest.LogCaptureFixture
) -> None:
    warning = "the encoder was pretrained before the test split or what is dropped changed"
    run("ingest,patch,pretrain,finetune", "data.drop_leaked=false")
    assert warning not in caplog.text

    catalog = run("ingest,patch,finetune,baseline,report", "data.drop_leaked=true")

    assert warning in caplog.text
    page = catalog.load("report")
    assert "Finetuning excluded these 4." in page
    assert "The encoder was pretrained before the test split or what is dropped changed" in page


def test_a_new_test_split_is_noticed_and_new_images_are_not(
    run: Run, raw: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run("ingest,patch,pretrain", "data.drop_leaked=false")
    cut(raw / "unlabeled" / "18.png", 18)
    catalog = run("ingest,patch,finetune", "data.drop_leaked=false")
    assert catalog.load("selfie_metrics")["provenance"]["pretraining_excludes_test_split"]
    assert "its pretraining may have had test images" not in caplog.text

    (raw / "train/cat/2.png").rename(raw / "test/cat/2.png")
    catalog = run("ingest,patch,finetune", "data.drop_leaked=false")

    made = catalog.load("selfie_metrics")["provenance"]
    assert made["pretraining_excludes_test_split"] is False
    assert "its pretraining may have had test images" in caplog.text


@pytest.mark.parametrize(
    ("pipeline", "change"),
    [("baseline", "data.folder=elsewhere"), ("pretrain", "data.drop_leaked=true")],
)
def test_parameters_of_the_data_that_a_run_does_not_read_are_refused(
    run: Run, fresh: Any, pipeline: str, change: str
) -> None:
    run("ingest,patch", "data.drop_leaked=false")

    error = fresh.refuse(
        "--env=image_folder", f"--pipelines={pipeline}", f"--params={TINY},{change}"
    )

    name, value = change.split("=")
    assert f"{name} = {value}, but the stored images were made with " in error
    assert error.endswith("run `kedro run --pipelines=ingest,patch` with it first, or leave it out")
    run("baseline", "data.drop_leaked=false,data.name=other")


def test_another_folder_is_ingested_under_a_budget(run: Run, fresh: Any, raw: Path) -> None:
    run("ingest,patch", "data.drop_leaked=false")
    other = raw.rename(raw.with_name("other"))

    params = f"data.folder={other},tracking.mlflow=never"  # no steps, which override the budget
    for pipeline in ("ingest", "patch"):
        fresh.succeed("--env=image_folder", f"--pipeline={pipeline}", f"--params={params}")


TRAIN = ("--env=image_folder", "--pipeline=baseline", f"--params={TINY}")


def test_later_samples_with_other_labels_are_refused(run: Run, fresh: Any, raw: Path) -> None:
    (raw / "train/cat/empty.png").touch()
    run("ingest,patch", "data.drop_leaked=true,data.max_unreadable=0.2")
    catalog = run("ingest", "")
    fresh.succeed(*TRAIN)  # the same samples, among them an empty file and leaked ones

    (raw / "train/cat/2.png").rename(raw / "train/dog/2.png")
    (raw / "train/cat/4.png").rename(raw / "unlabeled/4.png")
    cut(raw / "unlabeled/18.png", 18)
    catalog = run("ingest", "")
    error = fresh.refuse(*TRAIN)

    (listed, stored) = (
        catalog[name].list_versions(full_path=False)[0] for name in ("samples", "usable_samples")
    )
    assert error == (
        f"Error: samples {listed} are later than usable_samples {stored}: 3 images are new or "
        "gone, or have another class or split; run `kedro run --pipeline=patch`, or keep the "
        f"earlier ones with --load-versions=usable_samples:{stored}"
    )
    fresh.succeed(*TRAIN, f"--load-versions=usable_samples:{stored}")
    run("patch,baseline", "data.max_unreadable=0.2")


def test_an_edited_label_table_is_refused(run: Run, fresh: Any, raw: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("file,class\n17.png,cat\ntrain/dog/3.png,cat\n")
    catalog = run("ingest,patch,baseline", f"data.labels={table}")
    (stored,) = catalog["usable_samples"].list_versions(full_path=False)

    table.write_text("file,class\n17.png,dog\n")
    run("pretrain", "")  # which uses no labels
    error = fresh.refuse(*TRAIN)

    assert error == (
        f"Error: {table} has changed since its labels were stored; run `kedro run "
        "--pipelines=ingest,patch` again, or keep them with --load-versions=usable_samples:VERSION"
    )
    both = ("--pipelines=ingest,baseline", f"--params={TINY},data.folder={raw},data.labels={table}")
    assert fresh.refuse(TRAIN[0], *both) == error
    fresh.succeed(*TRAIN, f"--load-versions=usable_samples:{stored}")
    run("ingest,patch,baseline", f"data.labels={table}")
    table.unlink()
    fresh.succeed(*TRAIN)


def test_a_class_is_not_dropped_entirely(fresh: Any, raw: Path) -> None:
    for path in (raw / "train/dog").iterdir():
        path.rename(raw / "test/dog" / path.name)
    cut(raw / "train/dog/3.png", 3)
    params = f"data.folder={raw},tracking.mlflow=never,data.drop_leaked=true"
    error = fresh.refuse("--env=image_folder", "--pipelines=ingest,patch", f"--params={params}")
    assert "no training image of the class 'dog' is outside the test split" in error


def test_unreadable_files_are_nobodys_duplicates(run: Run, raw: Path) -> None:
    for place in ("train/cat/broken.png", "test/cat/broken.png"):
        (raw / place).write_bytes(b"")
    catalog = run("ingest,patch", "data.max_unreadable=0.2")
    pairs = catalog.load("duplicates")
    assert not pairs["first_place"].str.contains("broken").any()
    splits = {split["split"]: split for split in catalog.load("data_check")["splits"]}
    assert splits["train"]["unreadable"] == splits["test"]["unreadable"] == 1
    assert splits["test"]["images"] == 7


def test_pictures_of_the_pairs_are_drawn(run: Run, fresh: Any) -> None:
    run("ingest,patch", "data.drop_leaked=false")
    (path,) = fresh.path.glob("data/08_reporting/image_folder/duplicate_pairs.png/*/*.png")
    with Image.open(path) as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50
