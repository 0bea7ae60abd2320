"""Tests of the figures of the results."""

from __future__ import annotations

import math
from itertools import pairwise

import matplotlib as mpl
import pytest
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.lines import Line2D

from selfie_pipeline.evaluation.selection import select_cells
from selfie_pipeline.evaluation.tables import build_results_table, compute_gains
from selfie_pipeline.report.figures import (
    draw_accuracy_over_labels,
    draw_gain_over_ratio,
    draw_variance_over_labels,
)
from selfie_pipeline.report.style import DARK, LIGHT


def bars(axes) -> dict[str, ErrorbarContainer]:
    """Return the error bars of each label."""
    return {c.get_label(): c for c in axes.containers if isinstance(c, ErrorbarContainer)}


def lines_of(axes) -> dict[str, Line2D]:
    """Return the line, without error bars, of each label."""
    handles, labels = axes.get_legend_handles_labels()
    lines = (h.lines[0] if isinstance(h, ErrorbarContainer) else h for h in handles)
    return dict(zip(labels, lines, strict=True))


def ends_of(container: ErrorbarContainer) -> list[tuple[float, float]]:
    """Return the lower and upper ends of the drawn error bars."""
    (lines,) = container.lines[2]
    ends = [(segment[0][1], segment[1][1]) for segment in lines.get_segments() if len(segment)]
    return [end for end in ends if not math.isnan(end[0])]


def test_error_bars_are_the_standard_deviations(four_seeds) -> None:
    (axes,) = draw_accuracy_over_labels(build_results_table(four_seeds)).axes
    assert list(bars(axes)) == ["supervised (n = 4)", "Selfie (n = 4)"]
    ((low, high),) = ends_of(bars(axes)["supervised (n = 4)"])
    assert (low, high) == pytest.approx((79.5 - math.sqrt(5 / 3), 79.5 + math.sqrt(5 / 3)))


def titles_of(figure) -> list[str]:
    return [axes.get_title("left") for axes in figure.axes]


def legend_of(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def reference_of(axes) -> float:
    """Return the height of the reference line."""
    return next(line.get_ydata()[0] for line in axes.get_lines() if line.get_linestyle() == ":")


def test_the_accuracy_chart_says_what_it_shows(four_seeds) -> None:
    figure = draw_accuracy_over_labels(build_results_table(four_seeds))
    assert titles_of(figure) == ["digits, ResNet 1-1-1-1, width 16"]
    (axes,) = figure.axes
    assert axes.get_ylabel() == "test accuracy (%)"
    assert axes.get_xlabel() == "labeled training images (share and number)"
    assert legend_of(axes) == ["supervised (n = 4)", "Selfie (n = 4)"]
    assert figure.get_label() == (
        "Chart of test accuracy over the labeled fraction. digits, 5 %, supervised: 79.5 %. "
        "digits, 5 %, Selfie: 85.5 %."
    )


def test_marks_of_a_fraction_are_side_by_side_around_its_tick(four_seeds) -> None:
    cells = [cell | {"data": "cifar10"} for cell in four_seeds]
    (axes,) = draw_accuracy_over_labels(build_results_table(cells)).axes
    places = {name: container.lines[0].get_xdata()[0] for name, container in bars(axes).items()}
    paper_left, left, right, paper_right = (
        places[name]
        for name in (
            *("supervised, paper (n = 5)", "supervised (n = 4)"),
            *("Selfie (n = 4)", "Selfie, paper (n = 5)"),
        )
    )
    low, high = axes.get_xlim()
    assert low < paper_left < left < 5 < right < paper_right < high


def test_labels_of_close_fractions_do_not_overlap(make_cells) -> None:
    cells = [
        cell
        for percent in (5, 6, 8, 20, 21, 100)
        for cell in make_cells("selfie", {0: 0.5}, labeled_frac=percent / 100, labels=500 * percent)
    ]
    (axes,) = draw_accuracy_over_labels(build_results_table(cells)).axes

    axes.figure.draw_without_rendering()
    labels = [label for label in axes.get_xticklabels() if label.get_text()]
    extents = [label.get_window_extent() for label in labels]
    assert all(left.x1 < right.x0 for left, right in pairwise(extents))
    assert [label.get_text().split("\n")[0] for label in labels] == ["5 %", "8 %", "20 %", "100 %"]
    assert len(axes.get_xticks()) == 6


def test_equal_results_have_no_ratio_of_standard_deviations(make_cells) -> None:
    cells = [*make_cells("supervised", {0: 0.5, 1: 0.5}), *make_cells("selfie", {0: 0.5, 1: 0.5})]
    _, ratios = draw_variance_over_labels(build_results_table(cells)).axes

    assert [text.get_text() for text in ratios.texts] == ["no ratio of two standard deviations"]


def test_arms_can_be_told_apart_without_colour_and_in_either_chart(four_seeds) -> None:
    table = build_results_table(four_seeds)
    (accuracy,) = draw_accuracy_over_labels(table).axes
    deviations = draw_variance_over_labels(table).axes[0]
    styles = [
        [(line.get_color(), line.get_marker(), str(line.get_linestyle())) for line in lines]
        for lines in (
            [container.lines[0] for container in bars(accuracy).values()],
            deviations.get_lines(),
        )
    ]
    assert styles[0] == styles[1]
    assert all(len(set(values)) == 2 for values in zip(*styles[0], strict=True))


def test_one_seed_has_no_error_bar(one_seed) -> None:
    (axes,) = draw_accuracy_over_labels(build_results_table(one_seed)).axes
    found = bars(axes)
    assert list(found) == ["supervised (n = 1)", "Selfie (n = 1)"]
    assert all(not container.has_yerr for container in found.values())


def test_only_fractions_with_two_seeds_have_error_bars(four_seeds, make_cells) -> None:
    cells = [*four_seeds, *make_cells("selfie", {0: 0.95}, labeled_frac=1.0, labels=1257)]
    (axes,) = draw_accuracy_over_labels(build_results_table(cells)).axes
    assert len(ends_of(bars(axes)["Selfie (n = 1 to 4)"])) == 1


def test_ticks_are_the_labeled_fractions(four_seeds, make_cells) -> None:
    cells = [*four_seeds, *make_cells("selfie", {0: 0.95}, labeled_frac=1.0, labels=1257)]
    (axes,) = draw_accuracy_over_labels(build_results_table(cells)).axes
    assert axes.get_xscale() == "log"
    assert axes.get_xticks().tolist() == [5, 100]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["5 %\n63", "100 %\n1,257"]
    assert axes.get_xticks(minor=True).size == 0


def test_paper_results_have_hollow_markers_and_only_where_they_exist(
    four_seeds, make_cells
) -> None:
    (digits,) = draw_accuracy_over_labels(build_results_table(four_seeds)).axes
    assert list(bars(digits)) == ["supervised (n = 4)", "Selfie (n = 4)"]
    cells = make_cells("selfie", {0: 0.58}, data="cifar10", labels=2500)
    (cifar,) = draw_accuracy_over_labels(build_results_table(cells)).axes
    paper = bars(cifar)["Selfie, paper (n = 5)"]
    assert paper.lines[0].get_markerfacecolor() == "none"
    assert paper.lines[0].get_ydata().tolist() == [75.9]
    assert ends_of(paper) == [pytest.approx((75.5, 76.3))]


def test_names_are_not_parsed_as_formulas_and_the_global_style_is_unchanged(make_cells) -> None:
    before = dict(mpl.rcParams)
    cells = make_cells("selfie", {0: 0.5}, data="a$b_$")
    figure = draw_accuracy_over_labels(build_results_table(cells))
    figure.draw_without_rendering()
    assert figure.axes[0].get_title("left").startswith("a$b_$")
    assert dict(mpl.rcParams) == before


def test_palettes_have_the_same_roles_and_distinct_colours() -> None:
    assert LIGHT.keys() == DARK.keys()
    assert len(set(LIGHT.values())) == len(LIGHT)
    assert all(to_hex(colour) == colour for colour in LIGHT.values())


def test_standard_deviations_and_their_ratio(four_seeds) -> None:
    table = build_results_table(four_seeds)
    left, right = draw_variance_over_labels(table).axes
    drawn = {label: line.get_ydata().tolist() for label, line in lines_of(left).items()}
    assert drawn == {
        "supervised (n = 4)": pytest.approx([math.sqrt(5 / 3)]),
        "Selfie (n = 4)": pytest.approx([table["std"].iloc[1]]),
    }
    assert len({line.get_marker() for line in left.get_lines()}) == 2  # readable in grey
    selfie = table.iloc[1]
    ((low, high),) = ends_of(bars(right)["ratio, 95 % confidence interval"])
    assert (low, high) == pytest.approx((selfie["std_ratio_low"], selfie["std_ratio_high"]))


def test_similar_deviations_are_not_drawn_at_the_edge(make_cells) -> None:
    cells = [
        cell
        for arm, high in (("supervised", 0.8201), ("selfie", 0.82))
        for cell in make_cells(arm, {0: 0.8, 1: high})
    ]
    left, _ = draw_variance_over_labels(build_results_table(cells)).axes
    highest = max(max(line.get_ydata()) for line in left.get_lines())
    bottom, top = left.get_ylim()
    assert bottom == 0
    assert top > 1.04 * highest


def test_deviation_panels_say_what_they_show(four_seeds) -> None:
    table = build_results_table(four_seeds)
    figure = draw_variance_over_labels(table)
    left, right = figure.axes
    assert titles_of(figure) == [
        "digits, ResNet 1-1-1-1, width 16\nStandard deviation over seeds",
        "Ratio: supervised / Selfie",
    ]
    assert left.get_ylabel() == "test accuracy (points)"
    assert right.get_ylabel() == "ratio (above 1: Selfie varies less)"
    assert left.get_ylim()[0] == 0
    assert right.get_yscale() == "log"
    assert reference_of(right) == 1
    assert right.yaxis.get_major_formatter()(0.5) == "0.5"
    assert legend_of(left) == ["supervised (n = 4)", "Selfie (n = 4)"]
    assert legend_of(right) == ["ratio, 95 % confidence interval"]
    for axes in (left, right):
        assert axes.get_xscale() == "log"
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["5 %\n63"]
    assert not left.texts
    selfie = table.iloc[1]
    assert figure.get_label() == (
        "Chart of the standard deviation over the labeled fraction. digits, 5 %, supervised: "
        f"1.29 points. digits, 5 %, Selfie: {selfie['std']:.2f} points. digits, 5 %: supervised's "
        f"is {selfie['std_ratio']:.2g} times Selfie's, 95 % confidence interval "
        f"{selfie['std_ratio_low']:.2g} to {selfie['std_ratio_high']:.2g}."
    )


def test_the_papers_deviations_have_hollow_markers(four_seeds) -> None:
    table = build_results_table([cell | {"data": "cifar10"} for cell in four_seeds])
    left, right = draw_variance_over_labels(table).axes
    papers = {
        label: line.get_ydata().tolist()
        for axes in (left, right)
        for label, line in lines_of(axes).items()
        if line.get_markerfacecolor() == "none"
    }
    assert papers == {
        "supervised, paper (n = 5)": [0.7],
        "Selfie, paper (n = 5)": [0.4],
        "ratio, paper (n = 5)": pytest.approx([1.75]),
    }


def test_one_seed_has_no_standard_deviation(one_seed) -> None:
    figure = draw_variance_over_labels(build_results_table(one_seed))
    left, right = figure.axes
    assert [text.get_text() for text in left.texts] == [
        "fewer than two seeds:\nno standard deviation"
    ]
    assert not bars(right)["ratio, 95 % confidence interval"].has_yerr
    assert "there are no values" in figure.get_label()
    figure.draw_without_rendering()


@pytest.fixture
def gain_cells(make_cells) -> list[dict]:
    """Return cells with two numbers of pretraining images."""

    def origin(images: int) -> dict:
        provenance = {"configuration": {"pretrain": {"images": images}}}
        return {"provenance": provenance | {"pretraining_images": images}, "labels": 60}

    return [
        *make_cells("supervised", {0: 0.70, 1: 0.72}, labels=60),
        *make_cells("selfie", {0: 0.80, 1: 0.84}, **origin(1200)),
        *make_cells("selfie", {0: 0.73}, configuration="fewer", **origin(300)),
    ]


def test_gain_over_the_ratio(gain_cells) -> None:
    gains = compute_gains(select_cells(gain_cells, {"present"}))
    figure = draw_gain_over_ratio(gains)
    (axes,) = figure.axes
    ((label, line),) = bars(axes).items()
    assert label == "5 % (60 labels; n = 1 to 2)"
    assert line.lines[0].get_xdata().tolist() == [5, 20]
    assert line.lines[0].get_ydata().tolist() == pytest.approx([3, 11])
    assert ends_of(line) == [
        pytest.approx(tuple(gains.iloc[1][["difference_low", "difference_high"]]))
    ]
    marks = {line.get_label(): line.get_xdata() for line in axes.get_lines()}
    assert marks["paper: larger gains from a ratio of about 10"] == [10, 10]
    assert axes.get_xlim()[0] < 5
    assert axes.get_xlim()[1] > 20
    assert "20 pretraining images per label: +11.0 points" in figure.get_label()


def test_the_gain_chart_says_what_it_shows(gain_cells) -> None:
    figure = draw_gain_over_ratio(compute_gains(select_cells(gain_cells, {"present"})))
    (axes,) = figure.axes
    assert titles_of(figure) == ["digits, ResNet 1-1-1-1, width 16\nSelfie minus supervised"]
    assert axes.get_xlabel() == "pretraining images per labeled image"
    assert axes.get_ylabel() == "gain in test accuracy (points)"
    assert axes.get_xscale() == "log"
    assert axes.xaxis.get_major_formatter()(20.0) == "20"
    assert {1, 2, 5, 10, 20, 50} <= set(axes.xaxis.get_major_locator().tick_values(1, 50).round(9))
    assert axes.get_xticks(minor=True).size == 0
    assert reference_of(axes) == 0  # no gain
    assert legend_of(axes) == [
        "5 % (60 labels; n = 1 to 2)",
        "paper: larger gains from a ratio of about 10",
    ]
    assert not axes.texts


def test_no_label_of_the_variance_chart_is_cut_off(four_seeds) -> None:
    figure = draw_variance_over_labels(build_results_table(four_seeds))
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert axes.yaxis.label.get_window_extent().x0 >= 0


def test_many_gain_lines_can_be_told_apart(make_cells) -> None:
    cells = [
        cell | {"labeled_frac": part / 100, "labels": 10 * part}
        for part in range(1, 20)
        for arm in ("supervised", "selfie")
        for cell in make_cells(
            arm,
            {0: 0.7},
            provenance={"configuration": {"pretrain": {}}, "pretraining_images": 1200},
        )
    ]
    (axes,) = draw_gain_over_ratio(compute_gains(select_cells(cells, {"present"}))).axes
    styles = [(c.lines[0].get_marker(), c.lines[0].get_linestyle()) for c in bars(axes).values()]
    assert len(styles) == 19
    assert len(set(styles)) == 8


def test_gain_of_one_seed_has_no_error_bar(gain_cells) -> None:
    cells = [cell for cell in gain_cells if cell["seed"] == 0]
    (axes,) = draw_gain_over_ratio(compute_gains(select_cells(cells, {"present"}))).axes
    (line,) = bars(axes).values()
    assert not line.has_yerr


def test_no_gains_show_a_placeholder(gain_cells) -> None:
    cells = [
        cell | {"arm": "weights_selfie"} if cell["arm"] == "selfie" else cell for cell in gain_cells
    ]
    figure = draw_gain_over_ratio(compute_gains(select_cells(cells, {"present"})))
    assert figure.axes[0].texts[0].get_text() == "no result of Selfie without given weights"
    assert figure.get_label().endswith("There is no result of Selfie without given weights.")
