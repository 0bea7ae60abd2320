"""Tests of the choice of labeled samples, and of those that are held out."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest

from selfie_pipeline.config import TuneConfig, UserError
from selfie_pipeline.training.data.subset import hold_out, labeled_subset

FRACTIONS = (0.05, 0.08, 0.1, 0.2, 0.37, 0.5, 0.9, 1.0)


def shuffled_labels(*counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(0).permutation(labels)


def count_per_class(labels, chosen):
    return np.bincount(labels[chosen], minlength=labels.max() + 1)


@pytest.fixture(scope="module")
def cifar_like():
    return shuffled_labels(*[5000] * 10)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fraction", FRACTIONS)
class TestFaultASubsetIsNotStratified:
    def test_equal_classes(self, cifar_like, fraction, seed):
        chosen = labeled_subset(cifar_like, fraction, seed)
        assert (count_per_class(cifar_like, chosen) == 5000 * fraction).all()

    def test_digits(self, digits, fraction, seed):
        labels = digits[1]
        chosen = labeled_subset(labels, fraction, seed)
        assert len(chosen) == round(len(labels) * fraction)
        share = np.bincount(labels) * fraction
        assert np.abs(count_per_class(labels, chosen) - share).max() <= 1


def test_fault_a_subset_of_unequal_classes_is_not_stratified():
    rng = np.random.default_rng(0)
    worst = 0.0
    for seed in range(100):
        counts = rng.integers(40, 400, rng.integers(2, 30))
        labels = shuffled_labels(*counts)
        for fraction in FRACTIONS:
            chosen = labeled_subset(labels, fraction, seed)
            worst = max(worst, np.abs(count_per_class(labels, chosen) - counts * fraction).max())
    assert worst <= 1


def test_8_percent_of_cifar_10_is_400_per_class(cifar_like):
    chosen = labeled_subset(cifar_like, 0.08, seed=0)
    assert len(chosen) == 4000
    assert count_per_class(cifar_like, chosen).tolist() == [400] * 10


@pytest.mark.parametrize("seed", range(5))
def test_a_smaller_fraction_is_contained_in_a_larger_one(digits, seed):
    subsets = [labeled_subset(digits[1], fraction, seed) for fraction in FRACTIONS]
    for smaller, larger in itertools.pairwise(subsets):
        assert len(smaller) < len(larger)
        assert np.isin(smaller, larger).all()


def test_the_indices_are_distinct_and_ascend(digits):
    chosen = labeled_subset(digits[1], 0.3, seed=0)
    assert (np.diff(chosen) > 0).all()
    assert chosen.dtype == np.int64


def test_a_fraction_of_1_chooses_all_samples(digits):
    chosen = labeled_subset(digits[1], 1.0, seed=3)
    assert np.array_equal(chosen, np.arange(len(digits[1])))


def test_it_depends_on_fraction_and_seed(digits):
    first, again, other = (labeled_subset(digits[1], 0.1, seed) for seed in (4, 4, 5))
    assert np.array_equal(first, again)
    assert len(np.intersect1d(first, other)) < 0.3 * len(first)


def test_all_samples_of_a_class_are_equally_likely():
    labels = shuffled_labels(20, 60)
    times_chosen = np.zeros(80)
    for seed in range(2000):
        times_chosen[labeled_subset(labels, 0.25, seed)] += 1
    assert times_chosen.mean() == 500
    assert np.abs(times_chosen - 500).max() < 5 * np.sqrt(500 * 0.75)


def test_a_fraction_that_leaves_a_class_without_a_label_is_an_error():
    with pytest.raises(UserError) as caught:
        labeled_subset(shuffled_labels(*[50] * 10), 0.01, seed=0)
    message = str(caught.value)
    assert "labeled_frac = 0.01" in message
    assert "5 of 10 classes without a label" in message
    assert "0.02 or more" in message
    assert "\n" not in message


@pytest.mark.parametrize("seed", range(20))
def test_the_fraction_that_the_error_recommends_is_allowed_and_hardly_larger_than_needed(seed):
    rng = np.random.default_rng(seed)
    labels = shuffled_labels(*rng.integers(1, 300, rng.integers(2, 30)), 3000)

    with pytest.raises(UserError) as caught:
        labeled_subset(labels, 0.0001, seed)

    least = float(re.search(r"about ([\d.]+) or more", str(caught.value))[1])
    assert len(np.unique(labels[labeled_subset(labels, least, seed)])) == labels.max() + 1
    with pytest.raises(UserError):
        labeled_subset(labels, 0.9 * least - 1 / len(labels), seed)


@pytest.mark.parametrize("fraction", [0.06, 0.14, 0.16, 0.5])
def test_small_classes_take_few_places_of_a_very_large_one(fraction):
    counts = np.array([2000, *[10] * 30])
    labels = shuffled_labels(*counts)

    chosen = labeled_subset(labels, fraction, seed=0)

    share = counts / len(labels)
    bound = (1 + share * (len(counts) - 2)) / 2
    off = np.abs(count_per_class(labels, chosen) - share * len(chosen))
    assert (off <= bound + 1e-9).all()


def samples(*counts):
    """Some training samples of each class, and one test sample of each."""
    rows = [("train", label) for label, count in enumerate(counts) for _ in range(count)]
    rows += [("test", label) for label in range(len(counts))]
    table = pd.DataFrame(rows, columns=["split", "label"])
    return table.assign(sample=range(len(table)))


def tune(**changes):
    space = {"peak_learning_rate": {"low": 0.01, "high": 0.4, "log": True}}
    values = {"seed": 0, "trials": 3, "validation_share": 0.1, "space": space}
    return TuneConfig.model_validate(values | changes)


def test_the_validation_split_is_cut_from_the_training_samples_stratified():
    table = samples(40, 20)

    split = hold_out(table, tune())

    assert set(split["split"]) == {"train", "validation"}  # no test sample
    held_out = split[split["split"] == "validation"]
    assert held_out["label"].value_counts().to_dict() == {0: 4, 1: 2}
    assert set(split["sample"]) == set(range(60))
    pd.testing.assert_frame_equal(hold_out(table, tune()), split)
    assert not hold_out(table, tune(seed=1)).equals(split)


def test_too_few_samples_to_hold_out():
    with pytest.raises(UserError, match=r"tune.validation_share = 0.1 of 3 training samples"):
        hold_out(samples(2, 1), tune())


def test_a_class_of_which_none_is_held_out():
    with pytest.raises(UserError, match=r"\(1 of 3 classes have no validation sample\); allowed"):
        hold_out(samples(100, 100, 2), tune())


def test_a_class_of_which_all_are_held_out():
    with pytest.raises(UserError, match=r"\(1 of 3 classes have no training sample\); allowed"):
        hold_out(samples(100, 100, 2), tune(validation_share=0.9))
