"""Tests of the words and pictures of the data's check."""

from __future__ import annotations

import numpy as np
import pytest

from selfie_pipeline.report.duplicates import (
    describe_check,
    describe_overlaps,
    draw_duplicates,
    has_leaked,
)

PAIR = {
    "first_sample": 2,
    "second_sample": 3,
    "first_split": "train",
    "first_class_name": "cat",
    "first_place": "train/cat/a_very_long_name_of_a_file_0001.jpg",
    "second_split": "test",
    "second_class_name": "",
    "second_place": "test/1.jpg",
    "similarity": 0.87,
    "kind": "near",
}


def test_the_line_names_splits_duplicates_and_the_remedy(make_check) -> None:
    assert describe_check(make_check()) == (
        "train 5,000 images of 10 classes (500 each), test 5,000 images of 10 classes (500 each); "
        "1,203 training images (3 by their pixels, 1,200 nearly) are also among the test images, "
        "where they are 900; see duplicate_pairs; data.drop_leaked=true takes them out of the "
        "training"
    )
    dropped = describe_check(make_check() | {"dropped": 1203})
    assert dropped.endswith("; training excludes 1,203")


def test_the_line_of_other_classes_copies_and_unreadable_files(make_check) -> None:
    check = make_check(smallest_class=2, copies=7, unreadable=1)
    check["overlaps"][0]["other_class"] = 5
    line = describe_check(check)
    assert "(2 to 500 each), of which 7 are copies of others and 1 unreadable file" in line
    assert "5 pairs of them are of two classes" in line


@pytest.mark.parametrize(("exact", "how"), [(1, "by its pixels"), (0, "nearly")])
def test_one_image_is_told_in_the_singular(make_check, exact: int, how: str) -> None:
    (line,) = describe_overlaps(make_check(exact=exact, near=1 - exact))
    assert line == f"1 training image is also among the test images ({how})"


def test_nothing_found(make_check) -> None:
    check = make_check(exact=0, near=0)
    assert describe_check(check).endswith("; no image is in two splits")
    assert describe_overlaps(check) == describe_overlaps({}) == []
    assert not has_leaked(check)
    assert not has_leaked({})


def test_only_the_test_split_is_leaked_into(make_check) -> None:
    assert has_leaked(make_check("test"))
    assert not has_leaked(make_check("unlabeled"))


def test_pairs_are_drawn_with_what_tells_them_apart() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    exact = PAIR | {"kind": "exact", "similarity": 1.0, "first_sample": 0, "second_sample": 1}
    figure = draw_duplicates([exact, PAIR], lambda samples: images[samples])
    (axes,) = figure.axes
    assert np.array_equal(np.stack([image.get_array() for image in axes.images]), images)
    captions = [text.get_text() for text in axes.texts]
    assert "same pixels" in captions[0]
    assert "0.87 alike" in captions[2]
    assert captions[0].splitlines()[1] == "…name_of_a_file_0001.jpg"
    assert "train, cat, train/cat/a_very_long_name_of_a_file_0001.jpg" in figure.get_label()
    assert "test, no class, test/1.jpg: same pixels" in figure.get_label()


def test_no_pairs() -> None:
    figure = draw_duplicates([], lambda _: np.empty((0, 8, 8, 3), dtype=np.uint8))
    assert figure.get_label().endswith("There are none.")
