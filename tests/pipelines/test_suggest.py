"""Tests of the pipeline `suggest` through the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image


def test_images_that_the_finetuning_did_not_see_are_suggested(finished: Any) -> None:
    finished.succeed("--pipeline=suggest", "--params=suggest.count=30")

    table, samples = finished.load("suggestions"), finished.load("usable_samples")
    assert list(table) == ["file", "class", "prediction", "probability"]
    assert len(table) == table["file"].nunique() == 30
    assert set(table["class"]) == {""}
    suggested = samples[samples["place"].isin(table["file"])]
    assert len(suggested) == 30
    assert set(suggested["split"]) == {"train"}
    assert not suggested["sample"].isin(finished.load("labeled_samples")["sample"]).any()
    (picture,) = (finished.path / "data/08_reporting").rglob("suggestions_sheet.png/*/*.png")
    with Image.open(picture) as image:
        assert image.width > 500


def test_the_same_seed_suggests_the_same(finished: Any) -> None:
    finished.succeed("--pipeline=suggest", "--params=suggest.count=20")
    first = finished.load("suggestions")
    finished.succeed("--pipeline=suggest", "--params=suggest.count=20")

    pd.testing.assert_frame_equal(finished.load("suggestions"), first)


@pytest.mark.parametrize(("unlabeled", "suggested"), [(5, 5), (0, 0)])
def test_the_unlabeled_files_of_a_folder_are_suggested(
    fresh: Any, tmp_path: Path, unlabeled: int, suggested: int
) -> None:
    raw = tmp_path / "raw"
    for number in range(24 + unlabeled):
        split = ("train/cat", "train/owl", "test/cat", "test/owl")[number % 4]
        folder = raw / (split if number < 24 else "unlabeled")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    params = f"data.source=image_folder,data.folder={raw},labeled_frac=1.0"
    fresh.succeed("--pipelines=ingest,patch,pretrain,finetune", f"--params={params}")

    if not suggested:
        error = fresh.refuse("--pipeline=suggest", f"--params={params}")
        assert "there is nothing to label: the finetuning used the labels of all 12" in error
        return
    fresh.succeed("--pipeline=suggest", f"--params={params}")
    table = fresh.load("suggestions", params)
    assert sorted(table["file"]) == [f"unlabeled/{number}.png" for number in range(24, 29)]
    assert set(table["prediction"]) <= {"cat", "owl"}
    assert table["probability"].between(0.5, 1).all()
    table.loc[:2, "class"] = ["cat", "owl", "cat"]  # the others are not labeled yet
    table.to_csv(tmp_path / "labels.csv", index=False)
    fresh.succeed("--pipeline=ingest", f"--params={params},data.labels={tmp_path}/labels.csv")
    samples = fresh.load("samples", params)
    added = samples.set_index("place").loc[table["file"]]
    assert added["class_name"].tolist() == ["cat", "owl", "cat", "", ""]
    assert added["split"].tolist() == ["train"] * 3 + ["unlabeled"] * 2


def test_a_classifier_of_another_subset_is_refused(finished: Any) -> None:
    (path,) = (finished.path / "data/03_primary").rglob("labeled_samples.csv/*/*.csv")
    rows = path.read_text("utf-8").splitlines()
    path.write_text("\n".join(rows[:-1]) + "\n", "utf-8")

    error = finished.refuse("--pipeline=suggest")

    assert "the classifier was finetuned on other data or labels" in error


def test_a_classifier_of_another_encoder_is_refused(finished: Any) -> None:
    finished.run("pretrain", params="pretrain.seed=1")

    error = finished.refuse("--pipeline=suggest")

    assert "the classifier was finetuned from a different encoder" in error
