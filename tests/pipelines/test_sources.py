"""Tests of all layouts of raw files through the command line."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from kedro.framework.session import KedroSession
from PIL import Image

import datasets
from selfie_pipeline.models.patch_grid import patchify
from selfie_pipeline.sources.decoding import decode_file

TINY = (
    "model.width=8,model.layers=[1,1,1,1],model.attention.blocks=1,model.attention.heads=4,"
    "model.attention.intermediate=16,labeled_frac=1.0,"
    "pretrain.steps=2,pretrain.warmup_steps=1,pretrain.batch_size=4,"
    "finetune.steps=2,finetune.warmup_steps=1,finetune.batch_size=4"
)


def build_options(env: str, stages: str, folder: Path, params: str = "") -> list[str]:
    params = f"data.folder={folder},{TINY},{params}"
    return [f"--env={env}", f"--pipelines={stages}", f"--params={params}"]


def load_catalog(project: Any, env: str) -> Any:
    params = {"labeled_frac": 1.0}
    with KedroSession.create(project.path, env=env, runtime_params=params) as session:
        return session.load_context().catalog


def add_image(path: Path, seed: int = 0) -> None:
    """Write an image of noise in the size of a photograph."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((400, 300)).save(path, format="JPEG")


def add_images(folder: Path, *splits: str, count: int = 6) -> Path:
    """Add images of two classes to each split; those of "unlabeled" have no class."""
    for split in splits:
        for number in range(count):
            parent = split if split == "unlabeled" else f"{split}/{('cat', 'dog')[number % 2]}"
            add_image(folder / parent / f"{number}.jpg", number)
    return folder


def write_npz(folder: Path) -> Path:
    """Write a small ImageNet 32×32."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, images in (("train_data_batch_1", 8), ("train_data_batch_2", 4), ("val_data", 4)):
        pixels = random.integers(0, 256, (images, 3072), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", data=pixels, labels=np.arange(images) % 4 + 1)
    return folder


def write_imagenet(folder: Path) -> Path:
    """Write ImageNet in its published layout, in which val/ is flat."""
    add_images(folder, "train", "unlabeled")
    for number in range(4):
        add_image(folder / f"val/ILSVRC2012_val_0000000{number}.JPEG", number)
    lines = [f"ILSVRC2012_val_0000000{number},{('cat', 'dog')[number % 2]}" for number in range(4)]
    (folder / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *lines]))
    return folder


def write_label_table(folder: Path) -> Path:
    """Write unsorted images, and labels.csv beside them with the classes of 12 of 14."""
    rows = ["file,class,split"]
    for number in range(14):
        add_image(folder / f"all/{number}.jpg", number)
        if number < 12:
            rows.append(f"{number},{('cat', 'dog')[number % 2]},{'test' if number > 7 else ''}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


def write_parquet(folder: Path) -> Path:
    """Write a data set as on the Hugging Face Hub."""
    folder.mkdir()
    names = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    for split in ("train", "test"):
        random = np.random.default_rng(len(split))
        pixels = random.integers(0, 256, (6, 30, 40, 3), dtype=np.uint8)
        rows = {"image": [Image.fromarray(p) for p in pixels], "label": [0, 1] * 3}
        path = folder / f"{split}-00000-of-00001.parquet"
        datasets.Dataset.from_dict(rows, features).to_parquet(path)
    return folder


def write_tar(folder: Path) -> Path:
    """Write shards of WebDataset."""
    folder.mkdir()
    for split in ("train", "test"):
        with webdataset.TarWriter(str(folder / f"{split}-0.tar")) as writer:
            for number in range(6):
                random = np.random.default_rng(number + len(split))
                picture = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8))
                writer.write({"__key__": str(number), "jpg": picture, "cls": number % 2})
    return folder


@pytest.mark.parametrize(
    ("env", "make", "shape"),
    [
        ("imagenet32", write_npz, (16, 16, 3, 8, 8)),
        ("imagenet224", write_imagenet, (16, 64, 3, 32, 32)),
        ("image_folder", lambda folder: add_images(folder, "train", "test"), (12, 25, 3, 32, 32)),
        ("image_folder", lambda folder: add_images(folder, "train"), (6, 25, 3, 32, 32)),
        ("image_folder", write_parquet, (12, 25, 3, 32, 32)),
        ("image_folder", write_tar, (12, 25, 3, 32, 32)),
    ],
    ids=[
        "imagenet32",
        "imagenet224",
        "own images",
        "own images without a test split",
        "Parquet",
        "tar",
    ],
)
def test_from_raw_files_to_classifiers(
    fresh: Any, env: str, make: Callable[[Path], Path], shape: tuple[int, ...], tmp_path: Path
) -> None:
    fresh.succeed(
        *build_options(env, "ingest,patch,pretrain,finetune,baseline", make(tmp_path / "raw"))
    )

    catalog = load_catalog(fresh, env)
    assert catalog.load("patch_grids").shape == shape
    assert len(catalog.load("usable_samples")) == shape[0]
    assert catalog.load("unreadable_files").empty
    assert 0 <= catalog.load("selfie_metrics")["accuracy"] <= 1


def test_images_are_labeled_by_a_table(fresh: Any, tmp_path: Path) -> None:
    raw = write_label_table(tmp_path / "raw")

    params = f"data.labels={raw}/labels.csv"
    fresh.succeed(*build_options("image_folder", "ingest,patch,pretrain,finetune", raw, params))

    samples = load_catalog(fresh, "image_folder").load("usable_samples")
    counts = samples.groupby(["split", "class_name"]).size().to_dict()
    assert counts == {
        ("train", "cat"): 4,
        ("train", "dog"): 4,
        ("test", "cat"): 2,
        ("test", "dog"): 2,
        ("unlabeled", ""): 2,
    }


def test_the_stored_grids_are_the_decoded_images(fresh: Any, tmp_path: Path) -> None:
    raw = add_images(tmp_path / "raw", "train", "test")

    fresh.succeed(*build_options("imagenet224", "ingest,patch", raw))

    catalog = load_catalog(fresh, "imagenet224")
    samples, grids = catalog.load("usable_samples"), catalog.load("patch_grids")
    expected = np.stack([decode_file(raw / place, 256)[0] for place in samples["place"]])
    images = torch.from_numpy(expected).permute(0, 3, 1, 2)  # (M, C, H, W)
    patches = grids.gather(samples["sample"].to_numpy())  # (M, N, C, P, P)
    assert torch.equal(patches, patchify(images, patches.shape[-1]))


def test_unlabeled_images_alone_are_enough_to_pretrain(fresh: Any, tmp_path: Path) -> None:
    raw = add_images(tmp_path / "raw", "unlabeled")

    fresh.succeed(*build_options("image_folder", "ingest,patch,pretrain", raw))
    error = fresh.refuse(*build_options("image_folder", "finetune", raw))

    assert error.startswith(
        "Error: there are no labeled training samples, so only pretraining can run: `kedro run"
    )


def test_unreadable_files_are_listed_and_excluded(fresh: Any, tmp_path: Path) -> None:
    raw = add_images(tmp_path / "raw", "train", "test")
    (raw / "train/cat/0.jpg").write_bytes(b"")
    (raw / "test/dog/.DS_Store").write_bytes(b"Bud1")

    while_reading = fresh.refuse(*build_options("image_folder", "ingest,patch", raw))
    stages, params = "patch,pretrain,finetune", "data.max_unreadable=0.1"
    fresh.succeed(*build_options("image_folder", stages, raw, params))
    of_stored_images = fresh.refuse(*build_options("image_folder", "patch", raw))

    error = (
        "1 or more of 13 files can't be used, such as train/cat/0.jpg (empty); "
        "data.max_unreadable = 0.01 allows 0: fix or remove them, or allow more"
    )
    assert while_reading == f"Error: patch_grids: {error}"
    assert of_stored_images == f"Error: {error}"
    catalog = load_catalog(fresh, "image_folder")
    unreadable = catalog.load("unreadable_files")
    assert unreadable[["place", "reason"]].to_numpy().tolist() == [
        ["train/cat/0.jpg", "empty"],
        ["test/dog/.DS_Store", "not an image"],
    ]
    usable = catalog.load("usable_samples")
    assert len(usable) == 11
    assert not set(usable["sample"]) & set(unreadable["sample"])
    assert set(catalog.load("selfie_predictions")["sample"]) <= set(usable["sample"])
    assert catalog.load("selfie_metrics")["test_samples"] == 6


def test_files_without_an_image_suffix_do_not_count_as_unreadable(
    fresh: Any, tmp_path: Path
) -> None:
    """Examples are the metadata of macOS and the bounding boxes of Tiny ImageNet."""
    raw = add_images(tmp_path / "raw", "train", "test")
    for split in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (raw / split / ".DS_Store").write_bytes(b"Bud1")
        (raw / split / "boxes.txt").write_bytes(b"0.jpg\t1\t2\t3\t4")

    fresh.succeed(*build_options("image_folder", "ingest,patch", raw, "data.max_unreadable=0.0"))

    assert len(load_catalog(fresh, "image_folder").load("unreadable_files")) == 8


def test_a_class_without_readable_images_is_named(fresh: Any, tmp_path: Path) -> None:
    raw = add_images(tmp_path / "raw", "train", "test")
    (raw / "train/owl").mkdir()
    (raw / "train/owl/notes.txt").write_bytes(b"no owl yet")

    error = fresh.refuse(*build_options("image_folder", "ingest,patch", raw))

    assert "no training image of the class 'owl' can be read" in error


def test_a_test_split_without_readable_images_is_refused(fresh: Any, tmp_path: Path) -> None:
    raw = add_images(tmp_path / "raw", "train", "test")
    for file in (raw / "test").rglob("*.jpg"):
        file.write_bytes(b"")

    options = build_options("image_folder", "ingest,patch,pretrain", raw, "data.max_unreadable=0.5")
    error = fresh.refuse(*options)

    assert "no image of the test split can be read" in error
    assert not [name for name in fresh.files() if name.startswith("06_models")]


@pytest.mark.parametrize("study", ["experiment", "tune", "ratio"])
def test_too_few_labels_for_a_study_are_refused_before_the_pretraining(
    fresh: Any, study: str
) -> None:
    pipelines = f"--pipelines=ingest,patch,pretrain,{study}"

    error = fresh.refuse(pipelines, "--params=experiment.labeled_fracs=[0.001]")

    assert error.startswith("Error: min(experiment.labeled_fracs) = 0.001 of ")
    assert not [name for name in fresh.files() if name.startswith("06_models")]
    assert fresh.versions("usable_samples")  # found out as soon as the samples were known


def test_a_file_that_changed_since_ingestion_is_detected(fresh: Any, tmp_path: Path) -> None:
    raw = add_images(tmp_path / "raw", "train", "test")
    fresh.succeed(*build_options("image_folder", "ingest", raw))
    add_image(raw / "train/cat/0.jpg", seed=99)

    error = fresh.refuse(*build_options("image_folder", "patch", raw))

    assert "changed since the samples were listed; run `kedro run --pipeline=ingest`" in error


def test_patching_resumes_after_a_kill(
    fresh: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The shards and statistics are byte for byte those of an uninterrupted run."""
    raw = add_images(tmp_path / "raw", "train", "test", count=120)
    fresh.succeed(*build_options("imagenet224", "ingest", raw))
    command = "from selfie_pipeline.datasets import patch_grid_shards as s, patch_grids\n"
    command += "import sys, time; s.PROGRESS_INTERVAL_S = 0; write = s._ShardWriter.append\n"
    command += "s._ShardWriter.append = lambda *args: (write(*args), time.sleep(0.1))\n"
    command += "from selfie_pipeline.__main__ import main; main()"
    arguments = ["--env=imagenet224", "--pipelines=patch", f"--params=data.folder={raw}"]
    victim = subprocess.Popen(
        [sys.executable, "-c", command, *arguments], stderr=subprocess.DEVNULL
    )
    store = fresh.path / "data/04_feature/imagenet224/patch_grids"
    deadline = time.monotonic() + 120
    while not list(store.glob(".partial-*/progress.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    victim.kill()
    assert victim.wait() == -signal.SIGKILL
    assert list(store.glob(".partial-*/progress.json"))

    caplog.set_level("INFO", "selfie_pipeline")
    fresh.succeed(*build_options("imagenet224", "patch", raw))

    assert "Patch grids: resumes after sample" in caplog.text
    assert not list(fresh.path.rglob(".partial-*"))
    (version,) = (path for path in store.iterdir() if any(path.iterdir()))
    resumed_files = {file.name: file.read_bytes() for file in (version / "patch_grids").iterdir()}
    for file in (version / "patch_grids").iterdir():
        file.unlink()
    fresh.succeed(*build_options("imagenet224", "patch", raw))
    latest = max(store.iterdir()) / "patch_grids"
    assert {file.name: file.read_bytes() for file in latest.iterdir()} == resumed_files


SHARED = (Path(__file__).parents[2] / "../shared/data").resolve()


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is absent")
@pytest.mark.parametrize(
    ("env", "folder", "train", "test"),
    [
        ("imagenet32", "imagenet32-mini", 1000, 200),
        ("imagenet224", "imagenette-mini", 240, 80),
        ("image_folder", "imagenette-mini", 240, 80),
    ],
)
def test_real_images(fresh: Any, env: str, folder: str, train: int, test: int) -> None:
    fresh.succeed(*build_options(env, "ingest,patch,pretrain", SHARED / folder))

    catalog = load_catalog(fresh, env)
    counts = catalog.load("sample_counts").set_index("class_name").loc["total"]
    assert (counts["train"], counts["test"]) == (train, test)
    assert len(catalog.load("usable_samples")) == train + test
    assert (catalog.load("patch_grids").std > 0.1).all()
