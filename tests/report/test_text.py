from __future__ import annotations

import io

import pandas as pd
import pytest

from selfie_pipeline.evaluation.tables import results_table
from selfie_pipeline.report.text import (
    readable,
    significance_table,
    summary,
    to_markdown,
    verdict,
)


def test_verdict_helped(four_seeds) -> None:
    assert verdict(results_table(four_seeds)) == (
        "Pretraining helped: +6.0 points with 5 % of the labels (63), over 4 seeds "
        "(95 % interval +3.4 to +8.6)."
    )


def test_verdict_says_that_the_baseline_won(four_seeds) -> None:
    swapped = {"selfie": "supervised", "supervised": "selfie"}
    cells = [cell | {"arm": swapped[cell["arm"]]} for cell in four_seeds]
    said = verdict(results_table(cells))
    assert said.startswith("The baseline won, pretraining hurt: −6.0 points")


def test_verdict_claims_nothing_that_the_interval_does_not_hold(make_cells) -> None:
    cells = [
        *make_cells("supervised", {0: 0.80, 1: 0.82}),
        *make_cells("selfie", {0: 0.81, 1: 0.85}),
    ]
    said = verdict(results_table(cells))
    assert said.startswith("Pretraining made no difference that these seeds can show: +2.0 points")


@pytest.mark.parametrize(
    ("selfie", "lead", "points"),
    [
        (0.82, "pretraining came out ahead", "+4.0"),
        (0.75, "the baseline came out ahead", "−3.0"),
        (0.78, "both arms came out equal", "0.0"),
    ],
)
def test_verdict_of_one_seed_says_little(make_cells, selfie: float, lead: str, points: str) -> None:
    cells = [*make_cells("supervised", {0: 0.78}), *make_cells("selfie", {0: selfie})]
    assert verdict(results_table(cells)) == (
        f"With one seed, which says little, {lead}: {points} points with 5 % of the labels (63)."
    )


def test_verdict_of_equal_differences_is_no_certainty(make_cells) -> None:
    cells = [
        *make_cells("supervised", {0: 0.78, 1: 0.80}),
        *make_cells("selfie", {0: 0.82, 1: 0.84}),
    ]
    table = results_table(cells)
    assert verdict(table) == (
        "With the same difference at every seed, which leaves no interval, pretraining came out "
        "ahead: +4.0 points with 5 % of the labels (63), over 2 seeds."
    )
    assert "+4.0 (n = 2)" in readable(table).to_numpy()


def test_verdict_of_several_fractions_is_one_sentence(four_seeds, make_cells) -> None:
    cells = [
        *four_seeds,
        *make_cells("supervised", {0: 0.95}, labeled_frac=1.0, labels=1257),
        *make_cells("selfie", {0: 0.94}, labeled_frac=1.0, labels=1257),
    ]
    assert verdict(results_table(cells)) == (
        "Pretraining helped: +6.0 points with 5 % of the labels (n = 4); with one seed, which says "
        "little, the baseline came out ahead: −1.0 points with 100 % of the labels (n = 1)."
    )


def test_verdict_without_a_comparison(make_cells) -> None:
    unpaired = [*make_cells("supervised", {0: 0.7}), *make_cells("selfie", {1: 0.8})]
    assert "no seed in common" in verdict(results_table(unpaired))
    assert "not tested" in verdict(results_table(unpaired[:1]))
    assert "not tested" in verdict(results_table([]))


def test_markdown(four_seeds) -> None:
    assert to_markdown(results_table(four_seeds)).splitlines() == [
        "| Data set | Network | Labeled | Arm | Accuracy, % | Difference, points (95 %) | "
        "Paper (n = 5) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| digits | ResNet 1-1-1-1, width 16 | 5 % (63) | supervised | 79.5 ± 1.3 (n = 4) |  |  |",
        "| digits | ResNet 1-1-1-1, width 16 | 5 % (63) | Selfie | 85.5 ± 2.4 (n = 4) | "
        "+6.0 (+3.4 to +8.6; n = 4) |  |",
        "",
        "| Data set | Network | Labeled | Pairs | t test | Permutation | "
        "Right alone, Selfie : supervised | McNemar | Deviations, ratio (95 %) | Paper's ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| digits | ResNet 1-1-1-1, width 16 | 5 % (63) | 4 | 0.0052 | 0.12 |  |  | "
        "0.54 (0.14 to 2.1) |  |",
    ]


def test_how_sure_says_nothing_of_one_seed(one_seed) -> None:
    assert significance_table(results_table(one_seed)).empty
    assert "McNemar" not in to_markdown(results_table(one_seed))


def test_how_sure_has_the_answers_and_the_papers_ratio(four_seeds) -> None:
    table = results_table([c | {"data": "cifar10", "labeled_frac": 0.08} for c in four_seeds])
    selfie = table["arm"] == "selfie"
    table.loc[selfie, ["gained", "lost"]] = [1200, 34]
    table.loc[selfie, "mcnemar_p"] = 1e-9
    (found,) = significance_table(table).to_dict("records")
    assert found["Right alone, Selfie : supervised"] == "1,200 : 34"
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
def test_ratios_have_two_digits_or_more(four_seeds, ratio: float, text: str) -> None:
    table = results_table(four_seeds).assign(paper_std_ratio=ratio)
    assert significance_table(table)["Paper's ratio"].tolist() == [text]


def test_markdown_of_one_seed_shows_a_dash(one_seed) -> None:
    text = to_markdown(results_table(one_seed))
    assert "| 82.0 (n = 1) | +4.0 (n = 1) |" in text
    assert "nan" not in text.lower()


def test_markdown_has_the_papers_numbers(make_cells) -> None:
    cells = make_cells("selfie", {0: 0.5}, data="cifar10", labels=2500)
    assert to_markdown(results_table(cells)).endswith("| 50.0 (n = 1) | – (n = 0) | 75.9 ± 0.4 |\n")


def test_markdown_cell_cannot_break_the_table(make_cells) -> None:
    cells = make_cells("selfie", {0: 0.5}, data="cats | dogs\n| x")
    text = to_markdown(results_table(cells))
    assert r"| cats \| dogs \| x |" in text
    assert len(text.splitlines()) == 3


def test_summary(four_seeds) -> None:
    assert summary(results_table(four_seeds)) == (
        "digits, ResNet 1-1-1-1, width 16: test accuracy\n"
        "Labeled   Arm         Accuracy, %           Difference, points (95 %)\n"
        "--------  ----------  --------------------  --------------------------\n"
        "5 % (63)  supervised  79.5 +/- 1.3 (n = 4)\n"
        "5 % (63)  Selfie      85.5 +/- 2.4 (n = 4)  +6.0 (+3.4 to +8.6; n = 4)\n"
    )


def test_summary_is_ascii_and_fits_the_terminal(make_cells) -> None:
    common = {"data": "imagenet224", "labeled_frac": 1.0, "labels": 1_281_167}
    cells = [
        *make_cells("supervised", {seed: 0.10 + seed / 100 for seed in range(10)}, **common),
        *make_cells("selfie", {seed: 0.50 + seed / 50 for seed in range(10)}, **common),
        *make_cells("selfie", {0: 0.1}, **common | {"network": "ResNet of " + "many " * 40}),
    ]
    text = summary(results_table(cells))
    assert text.isascii()
    assert "76.9 +/- 0.2" in text
    assert max(map(len, text.splitlines())) <= 100


def test_summary_of_nothing() -> None:
    assert summary(results_table([])) == "no results with this configuration\n"


def test_a_table_read_back_from_csv_reads_the_same(four_seeds) -> None:
    table = results_table(four_seeds)
    again = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    pd.testing.assert_frame_equal(readable(again), readable(table))
    pd.testing.assert_frame_equal(significance_table(again), significance_table(table))
    assert verdict(again) == verdict(table)
