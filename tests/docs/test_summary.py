"""docs/results/summary.csv and the tables of results are what the committed cells say."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import statistics
from collections import defaultdict
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
    assert summary.SUMMARY.read_text("utf-8") == summary.summary_text(), "run `make reference`"
    tables = {summary.README: summary.readme_table(), summary.INDEX: summary.full_table()}
    for path, table in tables.items():
        page = path.read_text("utf-8")
        assert page == summary.with_table(page, table), "run `make reference`"


def test_readme_has_some_starts_and_the_index_has_all(summary):
    shown = [(study.title, arm) for study in summary.STUDIES for arm in study.starts]
    assert summary.readme_table().count("\n") == len(shown) + 2
    pretrained = [
        row for row in csv.DictReader(io.StringIO(summary.summary_text())) if row["baseline"]
    ]
    assert summary.full_table().count("\n") == len(pretrained) + 2


def test_every_row_has_the_mean_and_the_gain_of_its_cells(summary):
    """Computed here once more, with nothing but the cells' accuracies."""
    with summary.SUMMARY.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 8
    studies = {study.title: study for study in summary.STUDIES}
    for row in rows:
        study = studies[row["data"]]
        folders = [study.folder] if isinstance(study.folder, str) else study.folder
        files = [file for folder in folders for file in (SCRIPT.parent / folder).glob("*.json")]
        files += (
            [*(SCRIPT.parent / study.scratch).glob("supervised-*.json")] if study.scratch else []
        )
        accuracies = defaultdict(lambda: defaultdict(list))
        for cell in (json.loads(file.read_text()) for file in files):
            if cell["labeled_frac"] == float(row["labels_percent"]) / 100:
                accuracies[cell["arm"]][cell["seed"]].append(100 * cell["accuracy"])
        own = accuracies["weights" if row["arm"] == "simclr" else row["arm"]]
        means = {seed: statistics.mean(found) for seed, found in own.items()}
        assert float(row["accuracy"]) == pytest.approx(statistics.mean(means.values()), abs=0.0051)
        assert int(row["finetuning_seeds"]) == len(own)
        if row["arm"] != "supervised":
            assert {len(found) for found in own.values()} == {len(folders)}
            assert int(row["pretraining_seeds"]) == len(folders)
            scratch = {seed: found[0] for seed, found in accuracies["supervised"].items()}
            gains = [means[seed] - scratch[seed] for seed in own]
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
