"""Tests of the map of image embeddings."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.manifold import TSNE

from selfie_pipeline.report.embedding_map import draw_embedding_map


def make_vectors(classes: int, each: int = 20) -> pd.DataFrame:
    """Draw clusters of vectors, one per class."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(classes, 8)) * 10
    labels = np.repeat(np.arange(classes), each)
    vectors = (centres[labels] + random.normal(size=(len(labels), 8))).astype(np.float32)
    return pd.DataFrame(
        {
            "label": labels,
            "class_name": [f"class {label}" for label in labels],
            "vector": list(vectors),
        }
    )


@pytest.mark.parametrize("kind", ["pca", "tsne"])
def test_up_to_ten_classes_have_a_marker_each_and_a_legend(kind: str) -> None:
    figure = draw_embedding_map(make_vectors(10, each=8), kind, 1000)  # type: ignore[arg-type]

    (axes,) = figure.axes
    lines = axes.get_lines()
    assert len({line.get_marker() for line in lines}) == 10
    assert len({line.get_color() for line in lines}) == 10
    assert sum(len(line.get_xdata()) for line in lines) == 80
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == [f"class {label}" for label in range(10)]
    assert "all 80 images" in axes.get_title(loc="left")


@pytest.mark.parametrize("kind", ["pca", "tsne"])
@pytest.mark.parametrize("images", [1, 2, 100])
def test_equal_vectors_are_one_point(kind: str, images: int) -> None:
    """scikit-learn's t-SNE ends the process with a segmentation fault."""
    table = make_vectors(1, each=images)
    table["vector"] = [np.ones(8, np.float32)] * images

    (axes,) = draw_embedding_map(table, kind, 1000).axes  # type: ignore[arg-type]

    assert np.ptp(axes.get_lines()[0].get_xydata(), axis=0).tolist() == [0, 0]


def test_the_legend_has_each_name_shortened() -> None:
    names = {0: "_background", 1: "cat", 2: "dog" * 30}
    table = make_vectors(3).assign(class_name=lambda t: t["label"].map(names))
    table.loc[:2, "label"] = -1

    (axes,) = draw_embedding_map(table, "pca", 1000).axes

    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["unlabeled", "_background", "cat", "dogdogdogdog…ogdogdogdog"]


def test_pca_separates_classes() -> None:
    table = make_vectors(3)
    (axes,) = draw_embedding_map(table, "pca", 1000).axes
    points = [np.stack([line.get_xdata(), line.get_ydata()]) for line in axes.get_lines()]
    centres = [group.mean(axis=1) for group in points]
    spread = max(group.std(axis=1).max() for group in points)
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert np.linalg.norm(centres[one] - centres[other]) > 2 * spread


def test_up_to_thirty_classes_have_their_names_on_the_map() -> None:
    (axes,) = draw_embedding_map(make_vectors(12, each=4), "pca", 1000).axes
    assert [text.get_text() for text in axes.texts] == [f"class {label}" for label in range(12)]
    (axes,) = draw_embedding_map(make_vectors(40, each=4), "pca", 1000).axes
    assert not axes.texts
    (axes,) = draw_embedding_map(make_vectors(30, each=2), "pca", 1000).axes
    assert len(axes.texts) == 30


def test_tsne_looks_at_thirty_neighbours_or_at_a_third_of_few_images() -> None:
    for each, perplexity in ((8, 23 / 3), (31, 30)):
        table = make_vectors(3, each)
        (axes,) = draw_embedding_map(table, "tsne", 1000).axes
        drawn = np.concatenate([line.get_xydata() for line in axes.get_lines()])
        expected = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(
            np.stack(table["vector"])
        )
        np.testing.assert_allclose(drawn, expected, rtol=1e-4)


def test_the_map_has_equal_scales_and_neither_ticks_nor_grid() -> None:
    for classes in (3, 12):
        figure = draw_embedding_map(make_vectors(classes, each=4), "pca", 1000)
        (axes,) = figure.axes
        assert axes.get_aspect() == 1
        assert axes.get_xticks().size == axes.get_yticks().size == 0
        assert not any(line.get_visible() for line in axes.get_xgridlines())
        assert axes.get_title(loc="left") == f"Image embeddings, PCA; all {4 * classes} images"
        assert (axes.get_legend() is None) == (classes == 12)


def test_names_of_many_classes_are_amid_their_points() -> None:
    table = make_vectors(11, each=5)
    (axes,) = draw_embedding_map(table, "pca", 1000).axes
    (points,) = axes.collections
    places = np.asarray(points.get_offsets())
    assert len(places) == 55
    assert points.get_array().tolist() == table["label"].tolist()  # what colours follow
    for label, text in enumerate(axes.texts):
        assert text.get_position() == pytest.approx(np.median(places[table["label"] == label], 0))


def test_without_a_label_there_are_only_grey_points() -> None:
    figure = draw_embedding_map(make_vectors(2).assign(label=-1, class_name=""), "pca", 1000)
    (axes,) = figure.axes
    (line,) = axes.get_lines()
    assert len(line.get_xdata()) == 40
    assert axes.get_legend() is None
    assert str(figure.get_label()) == (
        "A map (PCA) of the embeddings of all 40 images, by class. No image has a label."
    )


def test_title_has_the_number_of_images() -> None:
    table = make_vectors(3)
    unlabeled = table.assign(label=-1, class_name="")
    figure = draw_embedding_map(pd.concat([table, unlabeled], ignore_index=True), "pca", 30)

    (axes,) = figure.axes
    assert sum(len(line.get_xdata()) for line in axes.get_lines()) == 30
    assert "30 of 120 images" in axes.get_title(loc="left")
    assert axes.get_lines()[0].get_label() == "unlabeled"
    assert "class 0, class 1, class 2" in figure.get_label()


def test_control_characters_in_the_names_of_classes_are_escaped() -> None:
    table = make_vectors(2).replace({"class_name": {"class 0": "a\nb", "class 1": "\x1b[2J"}})

    figure = draw_embedding_map(table, "pca", 1000)

    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == [r"a\nb", r"\x1b[2J"]
    assert r"a\nb, \x1b[2J" in str(figure.get_label())
