from __future__ import annotations

import math
import re
from pathlib import Path

import pandas as pd
import pytest

from selfie_pipeline.evaluation.tables import paper_results, results_table, select

METHOD = Path(__file__).parents[3] / "shared" / "METHOD.md"


def row(table: pd.DataFrame, arm: str) -> pd.Series:
    (found,) = (values for _, values in table[table["arm"] == arm].iterrows())
    return found


def test_mean_std_and_difference_by_hand(four_seeds) -> None:
    table = results_table(four_seeds)
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


def test_columns_say_what_was_run(four_seeds) -> None:
    first = results_table(four_seeds).iloc[0]
    assert first[["data", "network", "labeled_percent", "labels"]].tolist() == [
        "digits",
        "ResNet 1-1-1-1, width 16",
        5.0,
        63,
    ]


def test_seeds_of_one_arm_alone_do_not_enter_the_difference(make_cells) -> None:
    cells = [
        *make_cells("supervised", {0: 0.70, 1: 0.80, 7: 0.10}),
        *make_cells("selfie", {1: 0.83, 0: 0.71, 8: 0.99}),
    ]
    selfie = row(results_table(cells), "selfie")
    assert selfie["seeds"] == 3
    assert selfie["pairs"] == 2
    assert selfie["difference"] == pytest.approx(2)  # (1 + 3) / 2, each seed against itself
    assert selfie["difference_std"] == pytest.approx(math.sqrt(2))


def test_pairs_are_matched_by_seed_not_by_order(four_seeds) -> None:
    pd.testing.assert_frame_equal(results_table(four_seeds[::-1]), results_table(four_seeds))


def test_one_seed_has_no_spread(one_seed) -> None:
    table = results_table(one_seed)
    selfie = row(table, "selfie")
    assert table["std"].isna().all()
    assert (selfie["pairs"], selfie["difference"]) == (1, pytest.approx(4))
    assert selfie[["difference_std", "difference_low", "difference_high"]].isna().all()


def test_no_common_seed_no_difference(make_cells) -> None:
    cells = [*make_cells("supervised", {0: 0.7}), *make_cells("selfie", {1: 0.8})]
    selfie = row(results_table(cells), "selfie")
    assert selfie["pairs"] == 0
    assert math.isnan(selfie["difference"])


def test_one_arm_alone(make_cells) -> None:
    table = results_table(make_cells("selfie", {0: 0.8, 1: 0.9}))
    assert row(table, "selfie")["pairs"] == 0
    assert table["arm"].tolist() == ["selfie"]
    assert results_table(make_cells("supervised", {0: 0.8}))["pairs"].isna().all()


def test_fractions_are_rows_in_order(make_cells) -> None:
    cells = [
        *make_cells("selfie", {0: 0.9}, labeled_frac=1.0, labels=1257),
        *make_cells("selfie", {0: 0.8}, labeled_frac=0.07, labels=88),
        *make_cells("supervised", {0: 0.7}, labeled_frac=0.07, labels=88),
    ]
    table = results_table(cells)
    assert table["labeled_percent"].tolist() == [7.0, 7.0, 100.0]
    assert table["arm"].tolist() == ["supervised", "selfie", "selfie"]


def test_other_configurations_are_left_out_and_counted(four_seeds, make_cells) -> None:
    other = make_cells("selfie", {9: 0.99}, configuration="before")
    selection = select([*other, *four_seeds], {"present"})
    assert len(selection.used) == 8
    assert selection.other_configuration == other
    assert selection.superseded == []
    pd.testing.assert_frame_equal(results_table(selection.used), results_table(four_seeds))


def test_each_arm_may_have_a_configuration_of_its_own(make_cells) -> None:
    cells = [
        *make_cells("supervised", {0: 0.8}, configuration="scratch"),
        *make_cells("selfie", {0: 0.9}, configuration="pretrained"),
        *make_cells("selfie", {0: 0.1}, configuration="pretrained otherwise"),
    ]
    selection = select(cells, {"scratch", "pretrained"})
    assert selection.used == cells[:2]
    assert selection.other_configuration == cells[2:]


def test_a_seed_run_again_counts_once_the_newest(make_cells) -> None:
    newer = make_cells("selfie", {0: 0.6}, version="2026-11-23T00.00.00.000Z")
    older = make_cells("selfie", {0: 0.8, 1: 0.9})
    for cells in ([*newer, *older], [*older, *newer]):
        selection = select(cells, {"present"})
        assert [cell["accuracy"] for cell in selection.superseded] == [0.8]
        selfie = row(results_table(selection.used), "selfie")
        assert (selfie["seeds"], selfie["mean"]) == (2, pytest.approx(75))


def test_nothing_found_is_a_table_without_rows() -> None:
    table = results_table([])
    assert table.empty
    assert table["mean"].dtype == "float64"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arm": "control"}, "control"),
        ({"accuracy": 85.8}, "not a fraction"),
        ({"accuracy": math.nan}, "not a fraction"),
    ],
)
def test_refuses_a_wrong_cell(make_cells, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select([make_cells("selfie", {0: 0.8})[0] | change], {"present"})


def test_names_a_missing_key(make_cells) -> None:
    (cell,) = make_cells("selfie", {0: 0.8})
    del cell["version"]
    with pytest.raises(ValueError, match="lacks version"):
        select([cell], {"present"})


def test_paper_beside(make_cells) -> None:
    fractions = [
        *make_cells("selfie", {0: 0.5}, data="cifar10", labeled_frac=0.08, labels=4000),
        *make_cells("supervised", {0: 0.5}, data="cifar10", labeled_frac=0.0801, labels=4005),
        *make_cells("selfie", {0: 0.5}, data="cifar10", labeled_frac=0.1, labels=5000),
        *make_cells("selfie", {0: 0.5}, data="digits", labeled_frac=0.08, labels=100),
    ]
    table = results_table(fractions).set_index(["data", "labeled_percent", "arm"])
    paper = table[["paper_mean", "paper_std"]]
    assert paper.loc[("cifar10", 8.0, "selfie")].tolist() == [80.3, 0.3]
    assert paper.loc[("cifar10", 8.01, "supervised")].tolist() == [79.3, 1.0]
    assert paper.loc[("cifar10", 10.0, "selfie")].isna().all()
    assert paper.loc[("digits", 8.0, "selfie")].isna().all()


def test_paper_table_holds_what_the_paper_says() -> None:
    paper = paper_results().set_index(["data", "labeled_frac", "arm"])
    assert len(paper) == 24
    assert paper.index.is_unique
    assert paper.loc[("imagenet224", 0.05, "selfie")].tolist() == [46.7, 0.4]
    assert paper.loc[("cifar10", 0.05, "supervised")].tolist() == [75.9, 0.7]
    assert paper.loc[("imagenet32", 1.0, "selfie")].tolist() == [56.4, 0.6]


@pytest.mark.skipif(not METHOD.exists(), reason="the method's text lies beside a checkout only")
def test_paper_table_is_that_of_the_method_text() -> None:
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
    paper = paper_results().set_index(["data", "labeled_frac", "arm"])
    assert {key: tuple(values) for key, values in paper.T.items()} == expected
    assert len(expected) == 24
