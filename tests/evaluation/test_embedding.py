from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from selfie_pipeline.evaluation.embedding import draw, score_vectors, stack
from selfie_pipeline.report.embedding_map import embedding_map


def vectors_of(classes: int, each: int = 20, apart: float = 10.0) -> pd.DataFrame:
    """Classes around points of their own; of each the last quarter is the test split."""
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


def test_classes_that_lie_apart_are_told_apart() -> None:
    scores = score_vectors(vectors_of(4))

    assert scores is not None
    assert scores["knn"]["accuracy"] == scores["linear_probe"]["accuracy"] == 1
    assert (scores["train_samples"], scores["test_samples"], scores["classes"]) == (60, 20, 4)


def test_vectors_that_say_nothing_score_as_chance_does() -> None:
    scores = score_vectors(vectors_of(4, each=400, apart=0.0))

    assert scores is not None
    for name in ("knn", "linear_probe"):
        assert scores[name]["accuracy"] == pytest.approx(0.25, abs=0.08)


def test_the_test_split_is_not_fitted_on() -> None:
    """With other labels in it the classifiers are the same, and all they say is wrong."""
    table = vectors_of(4)
    test = table["split"] == "test"
    table.loc[test, "label"] = (table.loc[test, "label"] + 1) % 4

    scores = score_vectors(table)

    assert scores is not None
    assert scores["knn"]["accuracy"] == scores["linear_probe"]["accuracy"] == 0


@pytest.mark.parametrize("split", ["train", "test"])
def test_without_labels_there_are_no_scores(split: str) -> None:
    table = vectors_of(3)
    table.loc[table["split"] == split, "label"] = -1

    assert score_vectors(table) is None


def test_samples_without_a_label_do_not_count() -> None:
    table = vectors_of(3)
    unlabeled = vectors_of(3).assign(split="unlabeled", label=-1, class_name="")

    assert score_vectors(pd.concat([table, unlabeled])) == score_vectors(table)


@pytest.mark.parametrize("kind", ["pca", "tsne"])
def test_few_classes_have_a_marker_each(kind: str) -> None:
    figure = embedding_map(vectors_of(10, each=8), kind, 1000)  # type: ignore[arg-type]

    (axes,) = figure.axes
    lines = axes.get_lines()
    assert len({line.get_marker() for line in lines}) == 10
    assert len({line.get_color() for line in lines}) == 10
    assert sum(len(line.get_xdata()) for line in lines) == 80
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == [f"class {label}" for label in range(10)]
    assert "all 80 images" in axes.get_title(loc="left")


def test_pca_keeps_classes_apart() -> None:
    table = vectors_of(3)
    (axes,) = embedding_map(table, "pca", 1000).axes
    points = [np.stack([line.get_xdata(), line.get_ydata()]) for line in axes.get_lines()]
    centres = [group.mean(axis=1) for group in points]
    spread = max(group.std(axis=1).max() for group in points)
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert np.linalg.norm(centres[one] - centres[other]) > 2 * spread


def test_more_classes_have_their_names_on_the_map() -> None:
    (axes,) = embedding_map(vectors_of(12, each=4), "pca", 1000).axes
    assert [text.get_text() for text in axes.texts] == [f"class {label}" for label in range(12)]
    (axes,) = embedding_map(vectors_of(40, each=4), "pca", 1000).axes
    assert not axes.texts


def test_a_map_says_how_many_of_the_images_it_shows() -> None:
    table = vectors_of(3)
    unlabeled = table.assign(label=-1, class_name="")
    figure = embedding_map(pd.concat([table, unlabeled], ignore_index=True), "pca", 30)

    (axes,) = figure.axes
    assert sum(len(line.get_xdata()) for line in axes.get_lines()) == 30
    assert "30 of 120 images" in axes.get_title(loc="left")
    assert axes.get_lines()[0].get_label() == "without a label"
    assert "class 0, class 1, class 2" in figure.get_label()


def test_rows_are_drawn_once_and_always_the_same() -> None:
    table = vectors_of(3)

    drawn = draw(table, 10)

    assert len(set(drawn["sample"])) == 10
    assert drawn.equals(draw(table, 10))
    assert draw(table, 60) is table
    assert stack(drawn).shape == (10, 8)
