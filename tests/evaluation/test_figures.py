from __future__ import annotations

import math

import matplotlib as mpl
import pytest
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer

from selfie_pipeline.evaluation.figures import accuracy_over_labels, training_curves
from selfie_pipeline.evaluation.style import DARK, LIGHT
from selfie_pipeline.evaluation.tables import results_table


def bars(axes) -> dict[str, ErrorbarContainer]:
    return {c.get_label(): c for c in axes.containers if isinstance(c, ErrorbarContainer)}


def spans(container: ErrorbarContainer) -> list[tuple[float, float]]:
    """Lower and upper ends of the error bars that are drawn."""
    (lines,) = container.lines[2]
    ends = [(segment[0][1], segment[1][1]) for segment in lines.get_segments() if len(segment)]
    return [end for end in ends if not math.isnan(end[0])]


def test_training_curves_mark_chance(history) -> None:
    figure = training_curves(history, {"selfie": history, "supervised": history}, chance=0.25)
    loss, accuracy, arms = figure.axes
    curve, chance = loss.get_lines()
    assert curve.get_ydata().tolist() == history["loss"].tolist()
    assert set(chance.get_ydata()) == {math.log(4)}
    assert [text.get_text() for text in loss.texts] == ["chance: 1.39"]
    curve, chance = accuracy.get_lines()
    assert curve.get_ydata().tolist() == pytest.approx([25, 50, 70, 80, 86])
    assert set(chance.get_ydata()) == {25}
    assert accuracy.get_ylabel() == "patches picked rightly (%)"
    assert [line.get_label() for line in arms.get_lines()] == ["supervised", "Selfie"]
    assert len({line.get_linestyle() for line in arms.get_lines()}) == 2  # readable in grey
    assert "86 % of the masked patches" in figure.get_label()


def test_training_curves_without_an_arm(history) -> None:
    figure = training_curves(history, {}, chance=1 / 13)
    assert figure.axes[2].get_legend() is None
    with pytest.raises(ValueError, match="chance"):
        training_curves(history, {}, chance=25)


def test_error_bars_are_the_standard_deviations(four_seeds) -> None:
    (axes,) = accuracy_over_labels(results_table(four_seeds)).axes
    assert list(bars(axes)) == ["supervised (n = 4)", "Selfie (n = 4)"]
    ((low, high),) = spans(bars(axes)["supervised (n = 4)"])
    assert (low, high) == pytest.approx((79.5 - math.sqrt(5 / 3), 79.5 + math.sqrt(5 / 3)))


def test_one_seed_has_no_error_bar(one_seed) -> None:
    (axes,) = accuracy_over_labels(results_table(one_seed)).axes
    found = bars(axes)
    assert list(found) == ["supervised (n = 1)", "Selfie (n = 1)"]
    assert all(not container.has_yerr for container in found.values())


def test_of_two_fractions_only_the_one_with_two_seeds_has_a_bar(four_seeds, make_cells) -> None:
    cells = [*four_seeds, *make_cells("selfie", {0: 0.95}, labeled_frac=1.0, labels=1257)]
    (axes,) = accuracy_over_labels(results_table(cells)).axes
    assert len(spans(bars(axes)["Selfie (n = 1 to 4)"])) == 1


def test_ticks_are_the_real_fractions(four_seeds, make_cells) -> None:
    cells = [*four_seeds, *make_cells("selfie", {0: 0.95}, labeled_frac=1.0, labels=1257)]
    (axes,) = accuracy_over_labels(results_table(cells)).axes
    assert axes.get_xscale() == "log"
    assert axes.get_xticks().tolist() == [5, 100]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["5 %\n63", "100 %\n1,257"]
    assert axes.get_xticks(minor=True).size == 0


def test_paper_is_hollow_and_only_where_there_is_one(four_seeds, make_cells) -> None:
    cells = [
        *four_seeds,
        *make_cells("selfie", {0: 0.58}, data="cifar10", labels=2500),
    ]
    cifar, digits = accuracy_over_labels(results_table(cells)).axes
    assert list(bars(digits)) == ["supervised (n = 4)", "Selfie (n = 4)"]
    paper = bars(cifar)["Selfie, paper (n = 5)"]
    assert paper.lines[0].get_markerfacecolor() == "none"
    assert paper.lines[0].get_ydata().tolist() == [75.9]
    assert spans(paper) == [pytest.approx((75.5, 76.3))]


def test_accuracy_needs_results() -> None:
    with pytest.raises(ValueError, match="no results"):
        accuracy_over_labels(results_table([]))


def test_a_name_is_no_formula_and_no_style_leaks(make_cells) -> None:
    before = dict(mpl.rcParams)
    cells = make_cells("selfie", {0: 0.5}, data="a$b_$")
    figure = accuracy_over_labels(results_table(cells))
    figure.draw_without_rendering()
    assert figure.axes[0].get_title("left").startswith("a$b_$")
    assert dict(mpl.rcParams) == before


def test_each_role_has_a_colour_of_its_own_in_both_palettes() -> None:
    assert LIGHT.keys() == DARK.keys()
    assert len(set(LIGHT.values())) == len(LIGHT)
    assert all(to_hex(colour) == colour for colour in LIGHT.values())
