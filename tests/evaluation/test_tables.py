"""Tests of the tables of results."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from selfie_pipeline.evaluation.scores import pack_correct
from selfie_pipeline.evaluation.selection import select_cells
from selfie_pipeline.evaluation.tables import (
    build_results_table,
    compute_gains,
    has_one_seed,
    load_paper_results,
)

METHOD = Path(__file__).parents[3] / "shared" / "METHOD.md"


def row(table: pd.DataFrame, arm: str) -> pd.Series:
    (found,) = (values for _, values in table[table["arm"] == arm].iterrows())
    return found


def test_mean_std_and_difference_by_hand(four_seeds) -> None:
    table = build_results_table(four_seeds)
    assert table["arm"].tolist() == ["supervised", "selfie"]
    supervised, selfie = row(table, "supervised"), row(table, "selfie")
    assert (supervised["seeds"], selfie["seeds"]) == (4, 4)
    assert supervised["mean"] == pytest.approx(79.5)
    assert supervised["std"] == pytest.approx(math.sqrt(5 / 3))  # 1.5² + 0.5² + 0.5² + 1.5² over 3
    assert selfie["mean"] == pytest.approx(85.5)
    assert (selfie["pairs"], selfie["difference"]) == (4, pytest.approx(6))
    assert selfie["difference_std"] == pytest.approx(math.sqrt(8 / 3))
    assert selfie["difference_low"] == pytest.approx(6 - 2.598, abs=1e-3)
    assert selfie["difference_high"] == pytest.approx(6 + 2.598, abs=1e-3)
    assert supervised[["pairs", "difference", "paper_mean"]].isna().all()


def test_tests_of_the_difference_by_hand(four_seeds) -> None:
    supervised, selfie = (
        row(build_results_table(four_seeds), arm) for arm in ("supervised", "selfie")
    )
    # t = 6 / (sqrt(8 / 3) / 2) = 7.348; a printed table has t(0.995, 3) = 5.841, t(0.9995) = 12.92
    assert 0.001 < selfie["t_p"] < 0.01
    assert selfie["permutation_p"] == pytest.approx(2 / 16)
    assert selfie["std_ratio"] == pytest.approx(supervised["std"] / selfie["std"])
    # F(0.975; 3, 3) = 15.439 from a printed table
    assert selfie["std_ratio_low"] == pytest.approx(selfie["std_ratio"] / math.sqrt(15.439), 1e-4)
    assert selfie["std_ratio_high"] == pytest.approx(selfie["std_ratio"] * math.sqrt(15.439), 1e-4)
    tests = ["t_p", "permutation_p", "std_ratio", "gained", "lost", "mcnemar_p"]
    assert supervised[tests].isna().all()


def with_predictions(cells: list[dict], correct: list[str]) -> list[dict]:
    """Return the cells with "correct", a string of "1" (correct) and "0" (wrong)."""
    return [
        cell
        | {
            "correct": pack_correct(np.array([bit == "1" for bit in bits])),
            "test_samples": len(bits),
            "accuracy": bits.count("1") / len(bits),
        }
        for cell, bits in zip(cells, correct, strict=True)
    ]


def test_predictions_are_pooled_over_the_paired_seeds(make_cells) -> None:
    supervised = with_predictions(
        make_cells("supervised", {0: 0, 1: 0, 9: 0}), ["1100110010", "1000000000", "1" * 10]
    )
    selfie = with_predictions(make_cells("selfie", {1: 0, 0: 0}), ["0111100000", "1111110010"])
    found = row(build_results_table([*supervised, *selfie]), "selfie")
    assert (found["gained"], found["lost"]) == (6, 1)  # 4 and 1 with seed 1, 2 and 0 with seed 0
    assert found["mcnemar_p"] == pytest.approx(2 * (1 + 7) / 2**7)


def test_predictions_that_a_cell_lacks_give_missing_values(four_seeds, make_cells) -> None:
    assert pd.isna(row(build_results_table(four_seeds), "selfie")["mcnemar_p"])
    without = make_cells("supervised", {0: 0.1, 1: 0.2})
    complete = with_predictions(make_cells("selfie", {0: 0, 1: 0}), ["1100110010", "1000000000"])
    found = row(build_results_table([*without, *complete]), "selfie")
    assert found[["gained", "lost", "mcnemar_p"]].isna().all()
    assert found["pairs"] == 2


def test_one_pair_is_not_tested(make_cells) -> None:
    arms = (make_cells(arm, {0: 0}) for arm in ("supervised", "selfie"))
    cells = [
        c for arm, r in zip(arms, ("0001", "1111"), strict=True) for c in with_predictions(arm, [r])
    ]
    found = row(build_results_table(cells), "selfie")
    assert found["difference"] == pytest.approx(75)
    assert found[["t_p", "permutation_p", "std_ratio", "gained", "mcnemar_p"]].isna().all()


def test_rows_describe_the_data_the_network_and_the_labels(four_seeds) -> None:
    first = build_results_table(four_seeds).iloc[0]
    assert first[["data", "network", "labeled_percent", "labels"]].tolist() == [
        "digits",
        "ResNet 1-1-1-1, width 16",
        5.0,
        63,
    ]


def test_a_data_set_that_was_renamed_is_one_with_its_latest_name(four_seeds, make_cells) -> None:
    renamed = make_cells("selfie", {4: 0.9}, data="numerals", version="2026-11-23")
    table = build_results_table(select_cells([*renamed, *four_seeds], {"present"}).used)
    assert table[["data", "arm", "seeds"]].to_numpy().tolist() == [
        ["numerals", "supervised", 4],
        ["numerals", "selfie", 5],
    ]


def test_seeds_of_only_one_arm_are_excluded_from_the_difference(make_cells) -> None:
    cells = [
        *make_cells("supervised", {0: 0.70, 1: 0.80, 7: 0.10}),
        *make_cells("selfie", {1: 0.83, 0: 0.71, 8: 0.99}),
    ]
    selfie = row(build_results_table(cells), "selfie")
    assert selfie["seeds"] == 3
    assert selfie["pairs"] == 2
    assert selfie["difference"] == pytest.approx(2)  # (1 + 3) / 2, paired by seed
    assert selfie["difference_std"] == pytest.approx(math.sqrt(2))


def test_pairs_are_matched_by_seed_not_by_order(four_seeds) -> None:
    pd.testing.assert_frame_equal(
        build_results_table(four_seeds[::-1]), build_results_table(four_seeds)
    )


def test_one_seed_has_no_standard_deviation(one_seed) -> None:
    table = build_results_table(one_seed)
    selfie = row(table, "selfie")
    assert table["std"].isna().all()
    assert (selfie["pairs"], selfie["difference"]) == (1, pytest.approx(4))
    assert selfie[["difference_std", "difference_low", "difference_high"]].isna().all()


def test_arms_without_a_common_seed_have_no_difference(make_cells) -> None:
    cells = [*make_cells("supervised", {0: 0.7}), *make_cells("selfie", {1: 0.8})]
    selfie = row(build_results_table(cells), "selfie")
    assert selfie["pairs"] == 0
    assert math.isnan(selfie["difference"])


def test_one_arm_without_the_other(make_cells) -> None:
    table = build_results_table(make_cells("selfie", {0: 0.8, 1: 0.9}))
    assert row(table, "selfie")["pairs"] == 0
    assert table["arm"].tolist() == ["selfie"]
    assert build_results_table(make_cells("supervised", {0: 0.8}))["pairs"].isna().all()


def test_rows_are_ordered_by_fraction(make_cells) -> None:
    cells = [
        *make_cells("selfie", {0: 0.9}, labeled_frac=1.0, labels=1257),
        *make_cells("selfie", {0: 0.8}, labeled_frac=0.07, labels=88),
        *make_cells("supervised", {0: 0.7}, labeled_frac=0.07, labels=88),
    ]
    table = build_results_table(cells)
    assert table["labeled_percent"].tolist() == [7.0, 7.0, 100.0]
    assert table["arm"].tolist() == ["supervised", "selfie", "selfie"]


def pretrained_on(images: int | None, number: int | None = None, **other) -> dict:
    """Return the keys of a Selfie cell by its number of pretraining images, None for all."""
    configuration = {"model": {"width": 16}, "pretrain": {"steps": 10, "images": images}}
    provenance = {"configuration": configuration | other, "data": "the data"}
    provenance["pretraining_images"] = images if number is None else number
    return {"configuration": f"{images} {other}", "provenance": provenance}


def test_gains_over_the_ratio_of_images_to_labels(make_cells) -> None:
    cells = [
        *make_cells("supervised", {0: 0.70, 1: 0.72}, labels=60, configuration="scratch"),
        *make_cells("selfie", {0: 0.80, 1: 0.84}, labels=60, **pretrained_on(None, 1200)),
        *make_cells("selfie", {0: 0.73, 5: 0.9}, labels=60, **pretrained_on(300)),
        *make_cells("selfie", {0: 0.99}, labels=60, **pretrained_on(300, finetune=1)),
    ]
    selection = select_cells(cells, {"scratch", "None {}"})
    gains = compute_gains(selection)
    assert gains["images"].tolist() == [300, 1200]
    assert gains["ratio"].tolist() == [5, 20]
    assert gains["pairs"].tolist() == [1, 2]
    assert gains["difference"].tolist() == pytest.approx([3, 11])
    assert gains["difference_low"].isna().tolist() == [True, False]
    full = row(build_results_table(selection.used), "selfie")
    assert gains["difference_low"].iloc[1] == pytest.approx(full["difference_low"])


def test_gains_use_the_latest_version_of_a_cell(make_cells) -> None:
    cells = [
        *make_cells("supervised", {0: 0.70}, configuration="scratch"),
        *make_cells("selfie", {0: 0.80}, **pretrained_on(None, 1200)),
        *make_cells("selfie", {0: 0.90}, version="2026-12", **pretrained_on(63)),
        *make_cells("selfie", {0: 0.10}, version="2020-01", **pretrained_on(63)),
    ]
    gains = compute_gains(select_cells(cells, {"scratch", "None {}"}))
    assert gains["difference"].tolist() == pytest.approx([20, 10])


def test_a_gain_is_of_one_encoder(make_cells) -> None:
    def fewer(encoder: str, accuracies: dict[int, float], version: str) -> list[dict]:
        keys = pretrained_on(63)
        keys["provenance"]["encoder"] = encoder
        return make_cells("selfie", accuracies, version=version, **keys)

    cells = [
        *make_cells("supervised", dict.fromkeys(range(4), 0.5), configuration="scratch"),
        *make_cells("selfie", {0: 0.60}, **pretrained_on(None, 1200)),
        *fewer("old", dict.fromkeys(range(4), 0.9), "2026-11-01"),
        *fewer("new", {0: 0.5, 1: 0.5}, "2026-11-02"),
    ]
    gains = compute_gains(select_cells(cells, {"scratch", "None {}"}))
    assert gains["pairs"].tolist() == [2, 1]
    assert gains["difference"].tolist() == pytest.approx([0, 10])


def test_no_gain_without_a_pair_of_supervised_and_selfie(make_cells) -> None:
    cells = [
        *make_cells("supervised", {0: 0.70}, configuration="scratch"),
        *make_cells("selfie", {1: 0.80}, **pretrained_on(None, 1200)),
        *make_cells("weights_selfie", {0: 0.90}, **pretrained_on(63)),
    ]
    gains = compute_gains(select_cells(cells, {"scratch", "None {}", "63 {}"}))
    assert gains.empty
    assert gains["ratio"].dtype == "float64"


def with_training(cells: list[dict], *trainings: dict | None) -> list[dict]:
    """Return the cells with how their trainings ended."""
    return [
        cell | {"provenance": cell["provenance"] | {"training": training}}
        for cell, training in zip(cells, trainings, strict=True)
    ]


LEARNED = {"loss": 0.1, "loss_before": 0.2, "accuracy": 0.99}
FALLING = {"loss": 0.1, "loss_before": 0.2, "accuracy": 0.9}


def test_an_arm_has_converged_if_all_its_trainings_have(make_cells) -> None:
    supervised = make_cells("supervised", {0: 0.7, 1: 0.7})
    selfie = make_cells("selfie", {0: 0.8, 1: 0.8})
    table = build_results_table(
        [*with_training(supervised, LEARNED, LEARNED), *with_training(selfie, LEARNED, FALLING)]
    )
    assert table["converged"].tolist() == [True, False]
    table = build_results_table([*with_training(supervised, LEARNED, None), *selfie])
    assert table["converged"].isna().all()  # not known of every one


def test_held_out_scores_are_compared_over_the_paired_seeds(make_cells) -> None:
    def scores(half: float, end: float) -> dict:
        return LEARNED | {"held_out_half": half, "held_out": end}

    cells = [
        *with_training(
            make_cells("supervised", {0: 0.7, 1: 0.7}), scores(0.5, 0.6), scores(0.3, 0.5)
        ),
        *with_training(make_cells("supervised", {2: 0.7}), scores(0.9, 0.9)),  # without a pair
        *with_training(make_cells("selfie", {1: 0.8, 0: 0.8}), scores(0.6, 0.6), scores(0.7, 0.7)),
    ]
    found = row(build_results_table(cells), "selfie")
    assert found["held_out_half_difference"] == pytest.approx(25)
    assert found["held_out_difference"] == pytest.approx(10)
    cells[0] = make_cells("supervised", {0: 0.7})[0]
    found = row(build_results_table(cells), "selfie")
    assert math.isnan(found["held_out_difference"])


def test_paper_results_are_matched_by_data_fraction_and_arm(make_cells) -> None:
    fractions = [
        *make_cells("selfie", {0: 0.5}, data="cifar10", labeled_frac=0.08, labels=4000),
        *make_cells("supervised", {0: 0.5}, data="cifar10", labeled_frac=0.0801, labels=4005),
        *make_cells("selfie", {0: 0.5}, data="cifar10", labeled_frac=0.1, labels=5000),
    ]
    table = build_results_table(fractions).set_index(["labeled_percent", "arm"])
    paper = table[["paper_mean", "paper_std"]]
    assert paper.loc[(8.0, "selfie")].tolist() == [80.3, 0.3]
    assert paper.loc[(8.01, "supervised")].tolist() == [79.3, 1.0]
    assert paper.loc[(10.0, "selfie")].isna().all()
    digits = build_results_table(make_cells("selfie", {0: 0.5}, labeled_frac=0.08, labels=100))
    assert digits[["paper_mean", "paper_std"]].isna().all(axis=None)


def test_the_papers_std_ratio_is_in_selfies_row(make_cells) -> None:
    cells = [
        cell
        for arm in ("supervised", "selfie")
        for cell in make_cells(arm, {0: 0.5}, data="cifar10", labeled_frac=0.08, labels=4000)
    ]
    table = build_results_table(cells)
    assert row(table, "selfie")["paper_std_ratio"] == pytest.approx(1.0 / 0.3)
    assert pd.isna(row(table, "supervised")["paper_std_ratio"])


def test_paper_results_match_the_paper() -> None:
    paper = load_paper_results().set_index(["data", "labeled_frac", "arm"])
    assert len(paper) == 24
    assert paper.index.is_unique
    assert paper.loc[("imagenet224", 0.05, "selfie")].tolist() == [46.7, 0.4]
    assert paper.loc[("cifar10", 0.05, "supervised")].tolist() == [75.9, 0.7]
    assert paper.loc[("imagenet32", 1.0, "selfie")].tolist() == [56.4, 0.6]


@pytest.mark.skipif(not METHOD.exists(), reason="the method's text is not part of the repository")
def test_paper_results_match_the_method_text() -> None:
    keys = {
        "CIFAR-10": "cifar10",
        "ImageNet 32×32": "imagenet32",
        "ImageNet 224×224": "imagenet224",
    }
    expected, data = {}, ""
    for line in METHOD.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 6 or cells[1] not in {"supervised", "Selfie"}:
            continue
        data = keys.get(cells[0], data)
        fractions = (0.05, 0.08 if data == "cifar10" else 0.1, 0.2, 1.0)
        for fraction, cell in zip(fractions, cells[2:], strict=True):
            mean, std = re.fullmatch(r"([\d.]+) ± ([\d.]+)", cell).groups()
            expected[data, fraction, cells[1].lower()] = (float(mean), float(std))
    paper = load_paper_results().set_index(["data", "labeled_frac", "arm"])
    assert {key: tuple(values) for key, values in paper.T.items()} == expected
    assert len(expected) == 24


def test_each_arm_is_paired_with_the_baseline(four_seeds, make_cells) -> None:
    given = make_cells("weights", {0: 0.80, 1: 0.84, 7: 0.99})
    begun = make_cells("weights_selfie", {2: 0.69, 3: 0.71})

    table = build_results_table([*begun, *given, *four_seeds])

    assert table["arm"].tolist() == ["supervised", "selfie", "weights", "weights_selfie"]
    assert table["pairs"].tolist()[1:] == [4, 2, 2]
    assert table["difference"].tolist()[1:] == pytest.approx([6, 3, -10])
    alone = build_results_table(four_seeds)
    pd.testing.assert_frame_equal(table.iloc[:2], alone)


def test_pretraining_on_top_of_weights_is_also_compared_with_them(four_seeds, make_cells) -> None:
    given = make_cells("weights", {0: 0.80, 1: 0.84, 7: 0.99})
    begun = make_cells("weights_selfie", {0: 0.83, 1: 0.85, 2: 0.10})

    on_top = row(build_results_table([*four_seeds, *given, *begun]), "weights_selfie")

    assert on_top["over_weights_pairs"] == 2
    assert on_top["over_weights"] == pytest.approx(2)
    # The differences are 3 and 1: t(0.975; 1) = 12.706 times their standard error, which is 1.
    assert on_top["over_weights_low"] == pytest.approx(2 - 12.706, abs=1e-3)
    assert on_top["over_weights_high"] == pytest.approx(2 + 12.706, abs=1e-3)
    assert pd.isna(row(build_results_table(begun), "weights_selfie")["over_weights_pairs"])


def test_a_single_seed_is_noticed_in_a_mean_and_in_a_difference(make_cells) -> None:
    supervised = make_cells("supervised", {0: 0.7, 1: 0.7})
    for seeds, expected in (((0, 1), False), ((0,), True), ((1, 2), True), ((2, 3), True)):
        cells = [*supervised, *make_cells("selfie", dict.fromkeys(seeds, 0.8))]
        assert has_one_seed(build_results_table(cells)) is expected
