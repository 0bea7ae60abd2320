"""Figures of the results; each figure's label (`Figure.get_label`) is its alt text.

The tables of results are from `tables.build_results_table`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from selfie_pipeline.evaluation.tables import ARMS, order_arms
from selfie_pipeline.report.style import LIGHT, LINE_STYLES, MARKERS, join_sentences, styled
from selfie_pipeline.report.text import PAPER_SEEDS, table_title

# Factors on the logarithmic axis that draw arms at the same fraction side by side, so that their
# error bars do not overlap; the paper's results are on the outer sides.
_SHIFT = {"supervised": 0.97, "selfie": 1.03, "weights": 0.99, "weights_selfie": 1.01}
_PAPER_SHIFT = {"supervised": 0.91, "selfie": 1.1}
_PAPER_RATIO = 10
"""Ratio of unlabeled to labeled images from which the paper reports larger gains."""
_MARGIN = 1.35
"""Factor of the logarithmic axis beyond the first and the last point."""
_TICK_LABEL_IN = 0.6
"""Room for a tick's label, in inches."""
_LEGEND_BELOW: dict[str, Any] = {
    "loc": "upper left",
    "bbox_to_anchor": (0, -0.24),
    "ncols": 2,
    "borderaxespad": 0,
}
_REFERENCE_LINE: dict[str, Any] = {"linestyle": ":", "linewidth": 1.4, "color": LIGHT["muted"]}
_PAPER_MARKERS: dict[str, Any] = {"markerfacecolor": "none", "linestyle": "none"}


@styled
def draw_accuracy_over_labels(table: pd.DataFrame) -> Figure:
    """Draw test accuracy over the labeled fraction, with standard deviations as error bars.

    Returns:
        The arms, and the paper's results, if any, as hollow markers. A mean of one seed has no
        error bar.
    """
    figure = Figure(figsize=(7, 4.6))
    axes = figure.subplots()
    for arm, results in _split_arms(table):
        _draw_arm(axes, arm, results, "mean", "std")
    _label_fractions(axes, table)
    axes.set_title(table_title(table))
    axes.set_ylabel("test accuracy (%)")
    axes.legend(**_LEGEND_BELOW)
    axes.margins(y=0.12)
    points = (
        f"{row.data}, {row.labeled_percent:g} %, {ARMS[str(row.arm)]}: {row.mean:.1f} %"
        for row in table.itertuples()
    )
    figure.set_label(join_sentences("Chart of test accuracy over the labeled fraction", *points))
    return figure


@styled
def draw_variance_over_labels(table: pd.DataFrame) -> Figure:
    """Draw the standard deviation over seeds of each arm over the labeled fraction.

    Returns:
        Two panels: the arms' standard deviations, and the ratio of supervised's to Selfie's with
        its 95 % confidence interval; the paper's results, if any, as hollow markers. Values of
        fewer than two seeds are not drawn.
    """
    figure = Figure(figsize=(10, 4.2))
    left, right = figure.subplots(1, 2)
    for arm, results in _split_arms(table):
        _draw_arm(left, arm, results, "std")
    left.set_title(f"{table_title(table)}\nStandard deviation over seeds")
    left.set_ylabel("test accuracy (points)")
    left.set_ylim(0, 1.05 * left.get_ylim()[1])  # or similar values are at the edge
    _draw_ratios(right, table[table["arm"] == "selfie"])
    right.set_title("Ratio: supervised / Selfie")
    right.set_ylabel("ratio (above 1: Selfie varies less)")
    for axes in (left, right):
        _label_fractions(axes, table)
        axes.legend(**_LEGEND_BELOW | {"bbox_to_anchor": (0, -0.3)})
    if table["std"].isna().all():
        _draw_placeholder(left, "fewer than two seeds:\nno standard deviation")
    points = (
        f"{row.data}, {row.labeled_percent:g} %, {ARMS[str(row.arm)]}: {row.std:.2f} points"
        for row in table.dropna(subset="std").itertuples()
    )
    ratios = (
        f"{row.data}, {row.labeled_percent:g} %: supervised's is {row.std_ratio:.2g} times "
        f"Selfie's, 95 % confidence interval {row.std_ratio_low:.2g} to {row.std_ratio_high:.2g}"
        for row in table[table["arm"] == "selfie"].dropna(subset="std_ratio").itertuples()
    )
    values = [*points, *ratios] or ["There are fewer than two seeds, so there are no values"]
    figure.set_label(
        join_sentences("Chart of the standard deviation over the labeled fraction", *values)
    )
    return figure


@styled
def draw_gain_over_ratio(gains: pd.DataFrame) -> Figure:
    """Draw the gain from pretraining over the number of pretraining images per labeled image.

    The gains are from `tables.compute_gains`, and may have no rows.

    Returns:
        One line per labeled fraction, with 95 % confidence intervals as error bars if there are at
        least two pairs; and the ratio that the paper reports.
    """
    figure = Figure(figsize=(7, 4.6))
    axes = figure.subplots()
    groups = gains.groupby(["labeled_percent", "labels"], sort=False)
    styles = zip("oDv^sPX*", ("-", "--", "-.", ":") * 2, strict=True)
    lines: list[Any] = []
    # The styles repeat, without end.
    for (key, rows), (marker, line) in zip(groups, cycle(styles), strict=False):
        percent, labels = key
        lines.append(
            axes.errorbar(
                rows["ratio"],
                rows["difference"],
                yerr=_interval_lengths(rows, "difference"),
                color=LIGHT["selfie"],
                marker=marker,
                linestyle=line,
                capsize=3,
                label=f"{percent:g} % ({labels:,} labels; {_format_n(rows['pairs'])})",
            )
        )
    axes.set_xscale("log")
    axes.axhline(0, **_REFERENCE_LINE)
    label = f"paper: larger gains from a ratio of about {_PAPER_RATIO}"
    lines.append(axes.axvline(_PAPER_RATIO, **_REFERENCE_LINE, label=label))
    ratios = [*gains["ratio"], _PAPER_RATIO]
    axes.set_xlim(min(ratios) / _MARGIN, max(ratios) * 1.8)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    names = "" if gains.empty else f"{table_title(gains)}\n"
    axes.set_title(f"{names}Selfie minus supervised")
    axes.set_xlabel("pretraining images per labeled image")
    axes.set_ylabel("gain in test accuracy (points)")
    if gains.empty:
        _draw_placeholder(axes, "no result of Selfie without given weights")
    axes.legend(handles=lines, **_LEGEND_BELOW | {"ncols": 1})
    points = [
        f"{row.data}, {row.labels:,} labels, {row.ratio:.3g} pretraining images per label: "
        f"{row.difference:+.1f} points"
        for row in gains.itertuples()
    ] or ["There is no result of Selfie without given weights"]
    subject = "Chart of the gain over the number of pretraining images per labeled image"
    figure.set_label(join_sentences(subject, *points))
    return figure


def _split_arms(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each arm and its rows, in display order."""
    parts = {str(arm): part for arm, part in rows.groupby("arm")}
    return ((arm, parts[arm]) for arm in order_arms(parts))


def _draw_arm(
    axes: Axes, arm: str, results: pd.DataFrame, column: str, deviations: str | None = None
) -> None:
    """Draw a column of one arm's results, and of the paper's, with deviations as error bars."""
    style: dict[str, Any] = {"color": LIGHT[arm], "marker": MARKERS[arm]}
    percents = results["labeled_percent"].to_numpy(np.float64)
    has_bars = deviations and results[deviations].notna().any()  # not bars of zero height
    axes.errorbar(
        percents * _SHIFT[arm],
        results[column],
        yerr=results[deviations] if has_bars else None,
        linestyle=LINE_STYLES[arm],
        capsize=3,
        label=f"{ARMS[arm]} ({_format_n(results['seeds'])})",
        **style,
    )
    if results[f"paper_{column}"].notna().any():
        axes.errorbar(
            percents * _PAPER_SHIFT[arm],
            results[f"paper_{column}"],
            yerr=results[f"paper_{deviations}"] if deviations else None,
            elinewidth=1,
            capsize=2,
            label=f"{ARMS[arm]}, paper (n = {PAPER_SEEDS})",
            **style,
            **_PAPER_MARKERS,
        )


def _draw_ratios(axes: Axes, results: pd.DataFrame) -> None:
    """Draw ratios of standard deviations with their intervals, and the paper's."""
    style: dict[str, Any] = {"color": LIGHT["ink"], "marker": "D"}
    percents = results["labeled_percent"].to_numpy(np.float64)
    axes.errorbar(
        percents,
        results["std_ratio"],
        yerr=_interval_lengths(results, "std_ratio"),
        linestyle="none",
        capsize=3,
        label="ratio, 95 % confidence interval",
        **style,
    )
    if results["paper_std_ratio"].notna().any():
        label = f"ratio, paper (n = {PAPER_SEEDS})"
        axes.plot(
            percents * 1.1, results["paper_std_ratio"], label=label, **style, **_PAPER_MARKERS
        )
    if results["std_ratio"].isna().all():
        _draw_placeholder(axes, "no ratio of two standard deviations")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.axhline(1, **_REFERENCE_LINE)


def _interval_lengths(rows: pd.DataFrame, name: str) -> np.ndarray | None:
    """Return the lengths of an interval's error bars, (2, rows), or None if there are none."""
    low, high = rows[f"{name}_low"], rows[f"{name}_high"]
    if low.isna().all():
        return None
    return np.stack([rows[name] - low, high - rows[name]])


def _format_n(counts: pd.Series[int]) -> str:
    fewest, most = counts.min(), counts.max()
    return f"n = {fewest}" if fewest == most else f"n = {fewest} to {most}"


def _draw_placeholder(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center")


def _label_fractions(axes: Axes, rows: pd.DataFrame) -> None:
    """Set up a logarithmic axis with ticks at the labeled fractions, not at powers of ten.

    A tick too close to the one before has no label.
    """
    fractions = rows.drop_duplicates("labeled_percent")
    percents = fractions["labeled_percent"].to_numpy(np.float64)
    axes.set_xscale("log")
    low, high = percents.min() / _MARGIN, percents.max() * _MARGIN
    axes_in = axes.get_window_extent().width / axes.figure.dpi
    places_in = axes_in * np.log(percents / low) / np.log(high / low)  # (ticks,)
    labels, last_in = [], -np.inf
    for row, place_in in zip(fractions.itertuples(), places_in, strict=True):
        has_room = place_in - last_in >= _TICK_LABEL_IN
        labels.append(f"{row.labeled_percent:g} %\n{row.labels:,}" if has_room else "")
        last_in = place_in if has_room else last_in
    axes.set_xticks(percents, labels)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(low, high)
    axes.set_xlabel("labeled training images (share and number)")
