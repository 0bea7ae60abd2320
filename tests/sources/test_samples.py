"""Tests of the table of samples."""

import numpy as np
import pytest

from selfie_pipeline.config import UserError
from selfie_pipeline.sources.samples import (
    build_sample_table,
    check_samples,
    count_samples,
    draw_test_split,
)

CLASSES = ("crane", "dog", "crane")  # two classes of ImageNet have the same name


def table(*samples):
    """Build a table from (split, label) pairs."""
    splits, labels = zip(*samples, strict=True)
    places = [f"somewhere[{row}]" for row in range(len(samples))]
    return build_sample_table(splits, np.array(labels, dtype=np.int64), places, CLASSES)


def test_a_row_has_split_label_class_name_and_place():
    samples = table(("train", 1), ("unlabeled", -1))

    assert samples.index.name == "sample"
    assert samples.index.tolist() == [0, 1]
    assert samples["label"].dtype == np.int64
    assert samples.to_dict(orient="records") == [
        {"split": "train", "label": 1, "class_name": "dog", "place": "somewhere[0]"},
        {"split": "unlabeled", "label": -1, "class_name": "", "place": "somewhere[1]"},
    ]


def test_counts_are_by_label_not_by_name():
    samples = table(
        ("test", 2), ("train", 2), ("train", 2), ("train", 0), ("train", 1), ("unlabeled", -1)
    )

    counts = count_samples(samples)

    assert counts.columns.tolist() == ["class_name", "train", "test", "unlabeled"]
    assert counts.to_numpy().tolist() == [
        ["", 0, 0, 1],
        ["crane", 1, 0, 0],
        ["dog", 1, 0, 0],
        ["crane", 2, 1, 0],
        ["total", 4, 1, 1],
    ]


def test_only_splits_that_occur_are_counted():
    assert count_samples(table(("train", 0))).columns.tolist() == ["class_name", "train"]


@pytest.mark.parametrize(
    "samples",
    [
        [("train", 0), ("train", 1), ("train", 2), ("test", 1)],
        [("train", 0), ("train", 1), ("train", 2), ("test", 1), ("unlabeled", -1)],
        [("unlabeled", -1)],
    ],
)
def test_a_usable_table_passes(samples):
    check_samples(table(*samples), CLASSES)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([("test", 0)], "1 test samples and no training samples"),
        ([("test", 0), ("unlabeled", -1)], "no training samples"),
        ([("train", 0), ("train", 2), ("test", 1)], r"1 of the 3 classes: 'dog' \(label 1\)"),
        ([("train", 0), ("train", 1), ("train", 2)], "3 training samples and no test samples"),
    ],
)
def test_an_unusable_table_is_refused_with_a_reason(samples, message):
    with pytest.raises(UserError, match=message):
        check_samples(table(*samples), CLASSES)


def test_many_missing_classes_make_one_short_line():
    samples = table(("train", 0), ("test", 0))

    with pytest.raises(UserError, match="and 994 more") as error:
        check_samples(samples, ["cat", *(f"class {n}" for n in range(999))])

    assert len(str(error.value)) < 300


def test_five_missing_classes_are_all_named():
    samples = table(("train", 0), ("test", 0))

    with pytest.raises(UserError, match=r"of 5 of the 6 classes: .* 'e' \(label 5\); every"):
        check_samples(samples, ["cat", *"abcde"])


def test_a_single_class_is_refused():
    with pytest.raises(UserError, match=r"a single class, 'cat', and a classifier needs two"):
        check_samples(table(("train", 0), ("test", 0)), ["cat"])


@pytest.mark.parametrize(
    ("name", "escaped"), [("a\nb", r"a\nb"), ("\x1b[2J", r"\x1b[2J"), ("\u202egnp", r"\u202egnp")]
)
def test_a_class_name_with_control_characters_is_refused(name, escaped):
    with pytest.raises(UserError) as error:
        check_samples(table(("train", 0), ("train", 1), ("test", 0)), ["cat", name])

    assert f"of 1 of the 2 classes, escaped here: {escaped}; rename" in str(error.value)
    assert str(error.value).isprintable()


def test_a_fifth_of_each_class_is_drawn_by_name():
    classes = ["cat"] * 10 + ["dog"] * 5 + ["owl"] * 2 + ["ant"]
    names = [f"{name}/{number}" for number, name in enumerate(classes)]

    drawn = draw_test_split(classes, names)

    assert {name: drawn[np.array(classes) == name].sum() for name in set(classes)} == {
        "cat": 2,
        "dog": 1,
        "owl": 1,
        "ant": 0,
    }
    assert [names[row] for row in np.flatnonzero(drawn)] == ["cat/2", "cat/4", "dog/11", "owl/15"]
    backwards = draw_test_split(classes[::-1], names[::-1])
    assert np.array_equal(backwards[::-1], drawn)
