"""Tests of results as text."""

from __future__ import annotations

import io
from typing import Any

import pandas as pd
import pytest

from selfie_pipeline.evaluation.tables import build_results_table
from selfie_pipeline.report.text import (
    display_table,
    significance_table,
    terminal_table,
    to_markdown,
    verdict,
)


def test_verdict_if_pretraining_helped(four_seeds) -> None:
    assert verdict(build_results_table(four_seeds)) == (
        "Pretraining helped: +6.0 points with 5 % of the labels (63), over 4 seeds "
        "(95 % confidence interval +3.4 to +8.6)."
    )


def test_verdict_if_pretraining_hurt(four_seeds) -> None:
    swapped = {"selfie": "supervised", "supervised": "selfie"}
    cells = [cell | {"arm": swapped[cell["arm"]]} for cell in four_seeds]
    sentence = verdict(build_results_table(cells))
    assert sentence.startswith("Pretraining hurt: −6.0 points")


def test_verdict_claims_no_effect_if_the_interval_includes_zero(make_cells) -> None:
    cells = [
        *make_cells("supervised", {0: 0.80, 1: 0.82}),
        *make_cells("selfie", {0: 0.81, 1: 0.85}),
    ]
    sentence = verdict(build_results_table(cells))
    assert sentence.startswith("Pretraining made no significant difference: +2.0 points")


@pytest.mark.parametrize(
    ("selfie", "lead", "points"),
    [
        (0.82, "pretraining was ahead", "+4.0"),
        (0.75, "the baseline was ahead of pretraining", "−3.0"),
        (0.78, "pretraining and the baseline were equal", "0.0"),
    ],
)
def test_verdict_of_one_seed_is_weak_evidence(
    make_cells, selfie: float, lead: str, points: str
) -> None:
    cells = [*make_cells("supervised", {0: 0.78}), *make_cells("selfie", {0: selfie})]
    assert verdict(build_results_table(cells)) == (
        f"With only one seed, which is weak evidence, {lead}: {points} points with 5 % of the "
        "labels (63)."
    )


def test_verdict_of_equal_differences_has_no_interval(make_cells) -> None:
    cells = [
        *make_cells("supervised", {0: 0.78, 1: 0.80}),
        *make_cells("selfie", {0: 0.82, 1: 0.84}),
    ]
    table = build_results_table(cells)
    assert verdict(table) == (
        "With the same difference for every seed (so no interval), pretraining was ahead: "
        "+4.0 points with 5 % of the labels (63), over 2 seeds."
    )
    assert "+4.0 (n = 2)" in display_table(table).to_numpy()


def test_verdict_of_several_fractions_is_one_sentence(four_seeds, make_cells) -> None:
    cells = [
        *four_seeds,
        *make_cells("supervised", {0: 0.95}, labeled_frac=1.0, labels=1257),
        *make_cells("selfie", {0: 0.94}, labeled_frac=1.0, labels=1257),
    ]
    assert verdict(build_results_table(cells)) == (
        "Pretraining helped: +6.0 points with 5 % of the labels (n = 4); with only one seed, "
        "which is weak evidence, the baseline was ahead of pretraining: −1.0 points with 100 % of "
        "the labels (n = 1)."
    )


def with_training(cells: Any, arm: str, **training: float) -> Any:
    for cell in cells:
        if cell["arm"] == arm:
            cell["provenance"] = cell["provenance"] | {"training": training}
    return cells


CONVERGED = {"loss": 0.01, "loss_before": 0.02, "accuracy": 0.999}
SHORT = {"loss": 0.8, "loss_before": 1.0, "accuracy": 0.7}


@pytest.mark.parametrize(
    ("supervised", "selfie", "begin", "cells"),
    [
        (CONVERGED, CONVERGED, "At convergence, pretraining helped: +6.0", ["yes", "yes"]),
        (SHORT, CONVERGED, "Before convergence, pretraining helped: +6.0", ["no", "yes"]),
        (SHORT, SHORT, "Before convergence, pretraining helped: +6.0", ["no", "no"]),
        ({}, CONVERGED, "Pretraining helped: +6.0", ["", "yes"]),
    ],
)
def test_the_verdict_says_whether_both_arms_have_converged(
    four_seeds, supervised, selfie, begin: str, cells
) -> None:
    with_training(four_seeds, "supervised", **supervised)
    table = build_results_table(with_training(four_seeds, "selfie", **selfie))
    assert verdict(table).startswith(begin)
    assert list(display_table(table)["Converged"]) == cells


def test_the_verdict_has_the_differences_on_held_out_samples(four_seeds) -> None:
    with_training(four_seeds, "supervised", **SHORT, held_out_half=0.5, held_out=0.6)
    with_training(four_seeds, "selfie", **SHORT, held_out_half=0.7, held_out=0.65)
    assert verdict(build_results_table(four_seeds)) == (
        "Before convergence, pretraining helped: +6.0 points with 5 % of the labels (63), "
        "over 4 seeds (95 % confidence interval +3.4 to +8.6); on held-out training samples +20.0 "
        "at half of the steps and +5.0 at the end."
    )


def test_without_all_pairs_held_out_scores_are_not_compared(four_seeds) -> None:
    with_training(four_seeds, "selfie", **SHORT, held_out_half=0.7, held_out=0.65)
    assert "held-out" not in verdict(build_results_table(four_seeds))


def test_each_arm_has_a_sentence_and_its_tests(four_seeds, make_cells) -> None:
    given = make_cells("weights", {0: 0.70, 1: 0.75, 2: 0.70, 3: 0.75})
    table = build_results_table([*four_seeds, *given])
    assert verdict(table) == (
        "Pretraining helped: +6.0 points with 5 % of the labels (n = 4). "
        "A start from the given weights hurt: −7.0 points with 5 % of the labels (n = 4)."
    )
    tests = significance_table(table.assign(gained=3, lost=1))
    assert tests["Arm"].tolist() == ["Selfie", "given weights"]
    assert "Discordant predictions, the arm : supervised" in tests
    assert "Arm" not in significance_table(build_results_table(four_seeds))


def test_pretraining_on_top_of_weights_is_compared_with_both(make_cells) -> None:
    cells = [
        *make_cells("supervised", {0: 0.50, 1: 0.51}),
        *make_cells("weights", {0: 0.80, 1: 0.84}),
        *make_cells("weights_selfie", {0: 0.71, 1: 0.73}),
    ]
    assert verdict(build_results_table(cells)) == (
        "A start from the given weights helped: +31.5 points with 5 % of "
        "the labels (n = 2). A start from the given weights with pretraining on top helped: +21.5 "
        "points with 5 % of the labels (n = 2). Pretraining on top of the given weights made no "
        "significant difference: −10.0 points with 5 % of the labels (63), over 2 seeds (95 % "
        "confidence interval −22.7 to +2.7)."
    )
    (second,) = verdict(build_results_table(cells[1::2])).split(". ")[2:]
    assert second == (
        "With only one seed, which is weak evidence, a start from the weights alone was ahead "
        "of pretraining on top of the given weights: −11.0 points with 5 % of the labels (63)."
    )


def test_pretraining_on_top_of_weights_has_an_interval_for_each_fraction(make_cells) -> None:
    cells = [
        cell
        for fraction, labels in ((0.05, 63), (0.1, 126))
        for arm, accuracies in (
            ("supervised", {0: 0.50, 1: 0.51}),
            ("weights", {0: 0.70, 1: 0.71}),
            ("weights_selfie", {0: 0.75, 1: 0.76}),
        )
        for cell in make_cells(arm, accuracies, labeled_frac=fraction, labels=labels)
    ]
    cells[-1]["accuracy"] = 0.78

    (last,) = verdict(build_results_table(cells)).split(". ")[2:]
    assert "+6.0 points with 10 % of the labels (126), over 2 seeds (95 % confidence" in last


def test_a_table_of_an_earlier_commit_has_a_verdict(four_seeds) -> None:
    table = build_results_table(four_seeds)
    old = table.drop(columns=[name for name in table if name.startswith("over_weights")])
    assert verdict(old) == verdict(table)


def test_one_seed_in_common_is_weak_evidence(make_cells) -> None:
    cells = [
        *make_cells("supervised", {0: 0.7, 1: 0.7}),
        *make_cells("selfie", {1: 0.8, 2: 0.8}),
    ]
    assert verdict(build_results_table(cells)).startswith(
        "With only one seed in common, which is weak evidence, pretraining was ahead: +10.0 points"
    )


def test_the_convergence_of_an_arm_is_that_of_its_pair(four_seeds, make_cells) -> None:
    cells = [*four_seeds, *make_cells("weights", {0: 0.9, 1: 0.95})]
    for arm, training in (("supervised", CONVERGED), ("selfie", CONVERGED), ("weights", SHORT)):
        with_training(cells, arm, **training)
    first, second = verdict(build_results_table(cells)).split(". ")
    assert first.startswith("At convergence, pretraining helped")
    assert second.startswith("Before convergence, a start from")


def test_verdict_without_a_comparison(make_cells) -> None:
    unpaired = [*make_cells("supervised", {0: 0.7}), *make_cells("selfie", {1: 0.8})]
    assert "no seed in common" in verdict(build_results_table(unpaired))


def test_markdown(four_seeds) -> None:
    assert to_markdown(build_results_table(four_seeds)).splitlines() == [
        "digits, ResNet 1-1-1-1, width 16",
        "",
        "| Labeled | Arm | Accuracy, % | Difference, points (95 % CI) |",
        "| --- | --- | --- | --- |",
        "| 5 % (63) | supervised | 79.5 ± 1.3 (n = 4) |  |",
        "| 5 % (63) | Selfie | 85.5 ± 2.4 (n = 4) | +6.0 (+3.4 to +8.6; n = 4) |",
        "",
        "| Labeled | Pairs | t test | Permutation | Ratio of standard deviations (95 % CI) |",
        "| --- | --- | --- | --- | --- |",
        "| 5 % (63) | 4 | 0.0052 | 0.12 | 0.54 (0.14 to 2.1) |",
    ]


def test_significance_table_leaves_out_a_single_seed(one_seed) -> None:
    assert significance_table(build_results_table(one_seed)).empty
    assert "McNemar" not in to_markdown(build_results_table(one_seed))


def test_significance_table_has_pooled_predictions_and_the_papers_ratio(four_seeds) -> None:
    table = build_results_table([c | {"data": "cifar10", "labeled_frac": 0.08} for c in four_seeds])
    selfie = table["arm"] == "selfie"
    table.loc[selfie, ["gained", "lost"]] = [1200, 34]
    table.loc[selfie, "mcnemar_p"] = 1e-9
    (found,) = significance_table(table).to_dict("records")
    assert found["Discordant predictions, Selfie : supervised"] == "1,200 : 34"
    assert found["McNemar"] == "< 0.001"
    assert found["Paper's ratio"] == "3.3"  # 1.0 over 0.3


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (0.0512, "0.051"),
        (0.9, "0.90"),
        (1.0, "1.0"),
        (9.99, "10.0"),
        (12.6, "13"),
        (1234.5, "1,234"),
    ],
)
def test_ratios_have_at_least_two_significant_digits(four_seeds, ratio: float, text: str) -> None:
    table = build_results_table(four_seeds).assign(paper_std_ratio=ratio)
    assert significance_table(table)["Paper's ratio"].tolist() == [text]


def test_markdown_of_one_seed_has_no_standard_deviation(one_seed) -> None:
    text = to_markdown(build_results_table(one_seed))
    assert "| 82.0 (n = 1) | +4.0 (n = 1) |" in text
    assert "nan" not in text.lower()


def test_markdown_has_the_papers_results(make_cells) -> None:
    cells = make_cells("selfie", {0: 0.5}, data="cifar10", labels=2500)
    assert to_markdown(build_results_table(cells)).endswith(
        "| 50.0 (n = 1) | – (n = 0) | 75.9 ± 0.4 |\n"
    )


def test_markdown_is_escaped(make_cells) -> None:
    cells = make_cells("selfie", {0: 0.5}, data="cats | dogs\n| x")
    text = to_markdown(build_results_table(cells))
    assert text.startswith("cats \\| dogs \\| x, ResNet 1-1-1-1, width 16\n\n|")
    assert len(text.splitlines()) == 5


def test_terminal_table(four_seeds) -> None:
    assert terminal_table(build_results_table(four_seeds)) == (
        "digits, ResNet 1-1-1-1, width 16: test accuracy\n"
        "Labeled   Arm         Accuracy, %           Difference, points (95 % CI)\n"
        "--------  ----------  --------------------  ----------------------------\n"
        "5 % (63)  supervised  79.5 +/- 1.3 (n = 4)\n"
        "5 % (63)  Selfie      85.5 +/- 2.4 (n = 4)  +6.0 (+3.4 to +8.6; n = 4)\n"
    )


def test_in_a_narrow_terminal_each_value_has_its_line(four_seeds) -> None:
    assert terminal_table(build_results_table(four_seeds), width=60) == (
        "digits, ResNet 1-1-1-1, width 16: test accuracy\n"
        "\n"
        "Labeled: 5 % (63)\n"
        "Arm: supervised\n"
        "Accuracy, %: 79.5 +/- 1.3 (n = 4)\n"
        "\n"
        "Labeled: 5 % (63)\n"
        "Arm: Selfie\n"
        "Accuracy, %: 85.5 +/- 2.4 (n = 4)\n"
        "Difference, points (95 % CI): +6.0 (+3.4 to +8.6; n = 4)\n"
    )


def test_terminal_table_is_ascii_and_fits_the_terminal(make_cells) -> None:
    common = {"data": "imagenet224", "labeled_frac": 1.0, "labels": 1_281_167}
    cells = [
        *make_cells("supervised", {seed: 0.10 + seed / 100 for seed in range(10)}, **common),
        *make_cells("selfie", {seed: 0.50 + seed / 50 for seed in range(10)}, **common),
    ]
    cells[-1] |= {"network": "ResNet of " + "many " * 40, "version": "2026-11-23"}
    text = terminal_table(build_results_table(cells))
    assert text.isascii()
    assert "76.9 +/- 0.2" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_table_read_from_csv_has_the_same_text(four_seeds) -> None:
    table = build_results_table(four_seeds)
    again = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    pd.testing.assert_frame_equal(display_table(again), display_table(table))
    pd.testing.assert_frame_equal(significance_table(again), significance_table(table))
    assert verdict(again) == verdict(table)
