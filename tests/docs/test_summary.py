"""docs/results/summary.csv and README's table are what the committed cells say."""

from __future__ import annotations

import csv
import importlib.util
import json
import statistics
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "results" / "summary.py"


@pytest.fixture(scope="module")
def summary():
    spec = importlib.util.spec_from_file_location("summary", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_not_stale(summary):
    readme = summary.README.read_text("utf-8")
    assert summary.SUMMARY.read_text("utf-8") == summary.summary_text(), "run `make reference`"
    assert readme == summary.with_table(readme), "run `make reference`"


def test_every_row_has_the_mean_and_the_gain_of_its_cells(summary):
    """Computed here once more, with nothing but the cells' accuracies."""
    with summary.SUMMARY.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 8
    folders = {study.title: SCRIPT.parent / study.folder for study in summary.STUDIES}
    for row in rows:
        cells = [json.loads(path.read_text()) for path in folders[row["data"]].glob("*.json")]
        accuracies = {
            arm: {
                cell["seed"]: 100 * cell["accuracy"]
                for cell in cells
                if cell["arm"] == arm and cell["labeled_frac"] == float(row["labels_percent"]) / 100
            }
            for arm in ("supervised", "selfie", "weights", "weights_selfie")
        }
        own = accuracies["weights" if row["arm"] == "simclr" else row["arm"]]
        assert float(row["accuracy"]) == pytest.approx(statistics.mean(own.values()), abs=0.0051)
        assert int(row["finetuning_seeds"]) == len(own)
        if row["arm"] != "supervised":
            gains = [own[seed] - accuracies["supervised"][seed] for seed in own]
            assert float(row["gain"]) == pytest.approx(statistics.mean(gains), abs=0.0051)
            assert float(row["gain_low"]) < float(row["gain"]) < float(row["gain_high"])
            assert int(row["pretraining_images"]) > 0


def test_both_arms_of_a_study_were_finetuned_alike(summary):
    for study in summary.STUDIES:
        recipes = []
        for cell in study.cells():
            recipe = dict(cell["provenance"]["configuration"]["finetune"])
            for name in recipe.pop("tuned"):
                del recipe[name]
            recipes.append(recipe)
        assert all(recipe == recipes[0] for recipe in recipes), study.folder
