"""Tests of the selection of results."""

from __future__ import annotations

import pandas as pd
import pytest

from selfie_pipeline.evaluation.selection import select_cells
from selfie_pipeline.evaluation.tables import build_results_table


def test_other_configurations_are_left_out_and_counted(four_seeds, make_cells) -> None:
    other = make_cells("selfie", {9: 0.99}, configuration="before")
    selection = select_cells([*other, *four_seeds], {"present"})
    assert len(selection.used) == 8
    assert selection.other_configuration == other
    assert selection.superseded == []
    pd.testing.assert_frame_equal(
        build_results_table(selection.used), build_results_table(four_seeds)
    )


def test_each_arm_may_have_a_different_configuration(make_cells) -> None:
    cells = [
        *make_cells("supervised", {0: 0.8}, configuration="scratch"),
        *make_cells("selfie", {0: 0.9}, configuration="pretrained"),
        *make_cells("selfie", {0: 0.1}, configuration="pretrained otherwise"),
    ]
    selection = select_cells(cells, {"scratch", "pretrained"})
    assert selection.used == cells[:2]
    assert selection.other_configuration == cells[2:]


def test_a_seed_that_was_run_again_counts_once_with_its_latest_version(make_cells) -> None:
    later = make_cells("selfie", {0: 0.6}, version="2026-11-23T00.00.00.000Z")
    earlier = make_cells("selfie", {0: 0.8, 1: 0.9})
    for cells in ([*later, *earlier], [*earlier, *later]):
        selection = select_cells(cells, {"present"})
        assert [cell["accuracy"] for cell in selection.superseded] == [0.8]
        selfie = build_results_table(selection.used).set_index("arm").loc["selfie"]
        assert (selfie["seeds"], selfie["mean"]) == (2, pytest.approx(75))


def made(encoder: str | None, rate: float | None = None, **other) -> dict:
    """Return the keys of cells by their encoder and their tuned rate."""
    tuned = {} if rate is None else {"finetune.peak_learning_rate": rate}
    return {"provenance": {"encoder": encoder, "tuned": tuned}} | other


def test_a_row_has_one_encoder_and_the_tuned_values_of_the_latest_cell(make_cells) -> None:
    old = make_cells("selfie", {0: 0.7, 1: 0.8, 2: 0.9}, version="2026-11-01", **made("old", 0.1))
    new = make_cells("selfie", {0: 0.5}, version="2026-11-02", **made("new", 0.1))
    tuned = make_cells("selfie", {1: 0.6}, version="2026-11-03", **made("new", 0.2))
    scratch = make_cells("supervised", {0: 0.4, 1: 0.4}, **made(None, 0.3))

    selection = select_cells([*old, *new, *tuned, *scratch], {"present"})

    assert selection.used == [*tuned, *scratch]
    assert selection.other_encoder_or_tuning == [*old, *new]
    assert selection.superseded == []


def test_the_shown_cell_determines_the_encoder_of_all_fractions(make_cells) -> None:
    """The tuned values may differ from fraction to fraction."""
    shown = make_cells("selfie", {0: 0.7, 1: 0.8}, version="2026-11-01", **made("old", 0.1))
    more = {"labeled_frac": 0.5, "labels": 60, "version": "2026-11-01"}
    fraction = make_cells("selfie", {0: 0.9}, **more, **made("old", 0.4))
    later = make_cells("selfie", {0: 0.5}, version="2026-11-02", **made("new", 0.1))
    other = make_cells("selfie", {0: 0.9}, **more | {"version": "2026-11-02"}, **made("new", 0.4))
    cells = [*shown, *fraction, *later, *other]

    selection = select_cells(cells, {"present"}, shown[:1])

    assert selection.used == [*shown, *fraction]
    assert selection.other_encoder_or_tuning == [*later, *other]
    assert select_cells(cells, {"present"}).used == [*later, *other]


def test_the_shown_cell_is_used_even_if_its_seed_was_run_again(make_cells) -> None:
    shown = make_cells("selfie", {0: 0.7}, version="2026-11-01", provenance={"classifier": "a"})
    later = make_cells("selfie", {0: 0.5}, version="2026-11-02", provenance={"classifier": "b"})
    selection = select_cells([*shown, *later], {"present"}, shown)
    assert (selection.used, selection.superseded) == (shown, later)
    assert select_cells([*shown, *later], {"present"}).used == later
