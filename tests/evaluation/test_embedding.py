"""Tests of the scores of image embeddings."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from selfie_pipeline.evaluation.embedding import score_vectors, stack_vectors, subsample


def make_vectors(classes: int, each: int = 20, apart: float = 10.0) -> pd.DataFrame:
    """Draw clusters of vectors, one per class; the last quarter of each is the test split."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(classes, 8)) * apart
    labels = np.repeat(np.arange(classes), each)
    vectors = (centres[labels] + random.normal(size=(len(labels), 8))).astype(np.float32)
    test = np.tile(np.arange(each) >= 0.75 * each, classes)
    table = pd.DataFrame(
        {"sample": np.arange(len(labels)), "split": np.where(test, "test", "train")}
    )
    return table.assign(
        label=labels, class_name=[f"class {label}" for label in labels], vector=list(vectors)
    )


def test_separate_classes_are_classified_perfectly() -> None:
    scores = score_vectors(make_vectors(4))

    assert scores is not None
    assert scores["knn"]["accuracy"] == scores["linear_probe"]["accuracy"] == 1
    assert (scores["train_samples"], scores["test_samples"], scores["classes"]) == (60, 20, 4)


@pytest.mark.parametrize("counts", [[3] * 10, [60, 8], [40, 40, 6]])
def test_separate_classes_of_few_images_are_classified_perfectly(counts: list[int]) -> None:
    clusters = make_vectors(len(counts), each=80)
    kept = clusters.groupby("label").cumcount()
    few = clusters[(kept < clusters["label"].map(dict(enumerate(counts)))) | (kept >= 60)]

    scores = score_vectors(few)

    assert scores is not None
    assert scores["knn"]["accuracy"] == 1


def test_uninformative_vectors_score_at_chance_level() -> None:
    scores = score_vectors(make_vectors(4, each=400, apart=0.0))

    assert scores is not None
    for name in ("knn", "linear_probe"):
        assert scores[name]["accuracy"] == pytest.approx(0.25, abs=0.08)


def test_classifiers_are_not_fitted_on_the_test_split() -> None:
    table = make_vectors(4)
    test = table["split"] == "test"
    table.loc[test, "label"] = (table.loc[test, "label"] + 1) % 4  # all become wrong

    scores = score_vectors(table)

    assert scores is not None
    assert scores["knn"]["accuracy"] == scores["linear_probe"]["accuracy"] == 0


@pytest.mark.parametrize("split", ["train", "test"])
def test_without_labels_there_are_no_scores(split: str) -> None:
    table = make_vectors(3)
    table.loc[table["split"] == split, "label"] = -1

    assert score_vectors(table) is None


def test_unlabeled_samples_are_ignored() -> None:
    table = make_vectors(3)
    unlabeled = make_vectors(3).assign(split="unlabeled", label=-1, class_name="")

    assert score_vectors(pd.concat([table, unlabeled])) == score_vectors(table)


def test_subsample_is_deterministic_and_without_repetition() -> None:
    table = make_vectors(3)

    rows = subsample(table, 10)

    assert len(set(rows["sample"])) == 10
    assert rows.equals(subsample(table, 10))
    assert subsample(table, 60) is table
    assert stack_vectors(rows).shape == (10, 8)
