"""Figures of the results. Each one's label (`Figure.get_label`) is its description in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from selfie_pipeline.evaluation.tables import ARMS, in_order
from selfie_pipeline.report.style import LIGHT, LINE_STYLES, MARKERS, sentences, styled
from selfie_pipeline.report.text import PAPER_SEEDS

# Arms at the same fraction are drawn side by side (factors on the logarithmic axis), so that
# their error bars can be told apart; the paper's numbers stand on the outer sides.
_SHIFT = {"supervised": 0.97, "selfie": 1.03}
_PAPER_SHIFT = {"supervised": 0.91, "selfie": 1.1}
_PAPER_RATIO = 10
"""Unlabeled images for each labeled one at which the paper sees the gain take off."""
_BELOW: dict[str, Any] = {
    "loc": "upper left",
    "bbox_to_anchor": (0, -0.24),
    "ncols": 2,
    "borderaxespad": 0,
}
_LEVEL: dict[str, Any] = {"linestyle": ":", "linewidth": 1.4, "color": LIGHT["muted"]}


@styled
def accuracy_over_labels(table: pd.DataFrame) -> Figure:
    """Test accuracy over the labeled fraction, with standard deviations as error bars.

    Args:
        table: As `tables.results_table` makes it.

    Returns:
        A panel for each data set and network: both arms, and the paper's numbers as hollow
        markers where there are some. A mean of one seed has no error bar.

    Raises:
        ValueError: The table has no rows.
    """
    panels = _panels(table)
    figure = Figure(figsize=(7, 4.6 * len(panels)))
    for axes, (title, rows) in zip(
        figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True
    ):
        for arm, results in _arms(rows):
            _draw_arm(axes, arm, results)
        _label_fractions(axes, rows)
        axes.set_title(title)
        axes.set_ylabel("test accuracy (%)")
        axes.legend(**_BELOW)
        axes.margins(y=0.12)
    points = (
        f"{row.data}, {row.labeled_percent:g} %, {ARMS[str(row.arm)]}: {row.mean:.1f} %"
        for row in table.itertuples()
    )
    figure.set_label(sentences("Chart of test accuracy over the share of labels seen", *points))
    return figure


@styled
def variance_over_labels(table: pd.DataFrame) -> Figure:
    """How much the runs of each arm differ from seed to seed, over the labeled fraction.

    Args:
        table: As `tables.results_table` makes it.

    Returns:
        Two panels for each data set and network: both arms' standard deviations, and supervised's
        over Selfie's with its 95 % interval; the paper's numbers as hollow markers where there are
        some. Of fewer than two seeds nothing is drawn.

    Raises:
        ValueError: The table has no rows.
    """
    panels = _panels(table)
    figure = Figure(figsize=(10, 4.2 * len(panels)))
    for (left, right), (title, rows) in zip(
        figure.subplots(len(panels), 2, squeeze=False), panels, strict=True
    ):
        for arm, results in _arms(rows):
            _draw_deviations(left, arm, results)
        left.set_title(f"{title}\nStandard deviation")
        left.set_ylabel("of the test accuracy (points)")
        left.set_ylim(bottom=0)
        _draw_ratios(right, rows[rows["arm"] == "selfie"])
        right.set_title("Ratio: supervised over Selfie")
        right.set_ylabel("over 1: pretraining steadies")
        for axes in (left, right):
            _label_fractions(axes, rows)
            axes.legend(**_BELOW | {"bbox_to_anchor": (0, -0.3)})
        if rows["std"].isna().all():
            _say(left, "fewer than two seeds:\nno standard deviation")
    points = (
        f"{row.data}, {row.labeled_percent:g} %, {ARMS[str(row.arm)]}: {row.std:.2f} points"
        for row in table.dropna(subset="std").itertuples()
    )
    ratios = (
        f"{row.data}, {row.labeled_percent:g} %: supervised's is {row.std_ratio:.2g} times "
        f"Selfie's, 95 % interval {row.std_ratio_low:.2g} to {row.std_ratio_high:.2g}"
        for row in table.dropna(subset="std_ratio").itertuples()
    )
    told = [*points, *ratios] or ["There are fewer than two seeds, so nothing is claimed"]
    figure.set_label(
        sentences("Chart of the standard deviation over the share of labels seen", *told)
    )
    return figure


@styled
def gain_over_ratio(gains: pd.DataFrame) -> Figure:
    """What pretraining gains, over the unlabeled images that there were for each labeled one.

    Args:
        gains: As `tables.gains_over_ratio` makes it; may be without rows.

    Returns:
        A line for each data set, network and labeled fraction, with 95 % intervals as error bars,
        none where there are fewer than two pairs; and the ratio that the paper names.
    """
    figure = Figure(figsize=(7, 4.6))
    axes = figure.subplots()
    lines = gains.groupby(["data", "network", "labeled_percent", "labels"], sort=False)
    styles = zip("oDv^sPX*", ("-", "--", "-.", ":") * 2, strict=True)
    # More styles than lines: they begin again.
    for (key, rows), (marker, line) in zip(lines, list(styles) * len(gains), strict=False):
        data, _, percent, labels = key
        axes.errorbar(
            rows["ratio"],
            rows["difference"],
            yerr=_reach(rows, "difference"),
            color=LIGHT["selfie"],
            marker=marker,
            linestyle=line,
            capsize=3,
            label=f"{data}, {percent:g} % ({labels:,} labels; {_count(rows['pairs'])})",
        )
    axes.set_xscale("log")
    axes.axhline(0, **_LEVEL)
    said = f"paper: gains take off at about {_PAPER_RATIO} times"
    axes.axvline(_PAPER_RATIO, **_LEVEL, label=said)
    ratios = [*gains["ratio"], _PAPER_RATIO]
    axes.set_xlim(min(ratios) / 1.35, max(ratios) * 1.8)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_title("Selfie minus supervised")
    axes.set_xlabel("images pretrained on, for each labeled one")
    axes.set_ylabel("gain in test accuracy (points)")
    if gains.empty:
        _say(axes, "no result says how many images\nit was pretrained on")
    axes.legend(**_BELOW | {"ncols": 1})
    figure.set_label(_describe_gains(gains))
    return figure


def _panels(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each data set and network, with a title."""
    if table.empty:
        raise ValueError("no results to draw")
    groups = table.groupby(["data", "network"], sort=False)
    return [(f"{data}, {network}", rows) for (data, network), rows in groups]


def _arms(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The arms that there are, always in the same order."""
    parts = {str(arm): part for arm, part in rows.groupby("arm")}
    return ((arm, parts[arm]) for arm in in_order(parts))


def _draw_arm(axes: Axes, arm: str, results: pd.DataFrame) -> None:
    """One arm's means, and the paper's."""
    colour, marker = LIGHT[arm], MARKERS[arm]
    x = results["labeled_percent"].to_numpy(np.float64)
    axes.errorbar(
        x * _SHIFT[arm],
        results["mean"],
        yerr=_error_bars(results["std"]),
        color=colour,
        marker=marker,
        linestyle=LINE_STYLES[arm],
        capsize=3,
        label=f"{ARMS[arm]} ({_count(results['seeds'])})",
    )
    if results["paper_mean"].notna().any():
        axes.errorbar(
            x * _PAPER_SHIFT[arm],
            results["paper_mean"],
            yerr=results["paper_std"],
            color=colour,
            marker=marker,
            markerfacecolor="none",
            linestyle="none",
            elinewidth=1,
            capsize=2,
            label=f"{ARMS[arm]}, paper (n = {PAPER_SEEDS})",
        )


def _draw_deviations(axes: Axes, arm: str, results: pd.DataFrame) -> None:
    """One arm's standard deviations, and the paper's."""
    x = results["labeled_percent"].to_numpy(np.float64)
    style: dict[str, Any] = {"color": LIGHT[arm], "marker": MARKERS[arm]}
    label = f"{ARMS[arm]} ({_count(results['seeds'])})"
    axes.plot(x * _SHIFT[arm], results["std"], linestyle=LINE_STYLES[arm], label=label, **style)
    if results["paper_std"].notna().any():
        _draw_papers(axes, x * _PAPER_SHIFT[arm], results["paper_std"], ARMS[arm], **style)


def _draw_ratios(axes: Axes, results: pd.DataFrame) -> None:
    """Ratios of the standard deviations with their intervals, and the paper's."""
    x = results["labeled_percent"].to_numpy(np.float64)
    axes.errorbar(
        x,
        results["std_ratio"],
        yerr=_reach(results, "std_ratio"),
        color=LIGHT["ink"],
        marker="D",
        linestyle="none",
        capsize=3,
        label="ratio, 95 % interval",
    )
    if results["paper_std_ratio"].notna().any():
        _draw_papers(
            axes, x * 1.1, results["paper_std_ratio"], "ratio", color=LIGHT["ink"], marker="D"
        )
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.2g}"))
    axes.axhline(1, **_LEVEL)


def _draw_papers(
    axes: Axes, x: np.ndarray, y: pd.Series[float], name: str, *, color: str, marker: str
) -> None:
    """The paper's numbers, hollow."""
    label = f"{name}, paper (n = {PAPER_SEEDS})"
    axes.plot(
        x, y, color=color, marker=marker, markerfacecolor="none", linestyle="none", label=label
    )


def _error_bars(std: pd.Series[float]) -> pd.Series[float] | None:
    """No bars at all where no mean has a spread: a bar of no height would claim one."""
    return std if std.notna().any() else None


def _reach(rows: pd.DataFrame, name: str) -> np.ndarray | None:
    """Lengths of the error bars of an interval, (2, rows), if there is any."""
    low, high = rows[f"{name}_low"], rows[f"{name}_high"]
    if low.isna().all():
        return None
    return np.stack([rows[name] - low, high - rows[name]])


def _count(seeds: pd.Series[int]) -> str:
    fewest, most = seeds.min(), seeds.max()
    return f"n = {fewest}" if fewest == most else f"n = {fewest} to {most}"


def _say(axes: Axes, text: str) -> None:
    """Words where there is nothing to draw."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center")


def _label_fractions(axes: Axes, rows: pd.DataFrame) -> None:
    """A logarithmic axis that shows the fractions there are, not powers of ten."""
    ticks = rows.drop_duplicates("labeled_percent")
    percents = ticks["labeled_percent"].to_numpy(np.float64)
    axes.set_xscale("log")
    labels = [f"{row.labeled_percent:g} %\n{row.labels:,}" for row in ticks.itertuples()]
    axes.set_xticks(percents, labels)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(percents.min() / 1.35, percents.max() * 1.35)
    axes.set_xlabel("training images whose labels are seen (share and number)")


def _describe_gains(gains: pd.DataFrame) -> str:
    points = [
        f"{row.data}, {row.labels:,} labels, {row.ratio:.3g} times as many images: "
        f"{row.difference:+.1f} points"
        for row in gains.itertuples()
    ]
    return sentences(
        "Chart of the gain over the images pretrained on for each labeled one",
        *(points or ["No result says how many images it was pretrained on"]),
    )
