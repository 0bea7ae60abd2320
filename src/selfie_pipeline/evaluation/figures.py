"""Figures of numbers. Each figure's label (`Figure.get_label`) is its description in words."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from selfie_pipeline.evaluation.style import LIGHT, LINE_STYLES, MARKERS, styled
from selfie_pipeline.evaluation.tables import ARMS
from selfie_pipeline.evaluation.wording import PAPER_SEEDS

# Arms at the same fraction are drawn side by side (factors on the logarithmic axis), so that
# their error bars can be told apart; the paper's numbers stand on the outer sides.
_SHIFT = {"supervised": 0.97, "selfie": 1.03}
_PAPER_SHIFT = {"supervised": 0.91, "selfie": 1.1}


@styled
def training_curves(
    pretrain_history: pd.DataFrame, arm_histories: Mapping[str, pd.DataFrame], chance: float
) -> Figure:
    """How the trainings went.

    Args:
        pretrain_history: Columns ``step``, ``loss`` (nats) and ``accuracy`` (fraction of masked
            patches picked rightly).
        arm_histories: For each arm, columns ``step`` and ``loss`` (nats, on training batches).
        chance: Accuracy of picking a patch blindly: one over the number of masked patches.

    Returns:
        Three panels: the puzzle's loss and accuracy, each with its chance level, and the arms'
        losses.

    Raises:
        ValueError: The chance level is not between 0 and 1.
    """
    if not 0 < chance < 1:
        raise ValueError(f"chance = {chance} is not between 0 and 1")
    figure = Figure(figsize=(10, 3.4))
    loss, accuracy, arms = figure.subplots(1, 3)
    steps = pretrain_history["step"]
    loss.plot(steps, pretrain_history["loss"], color=LIGHT["selfie"])
    _mark_chance(loss, -math.log(chance), f"chance: {-math.log(chance):.2f}")
    _name(loss, "Pretraining: loss", "loss on the puzzle (nats)")
    accuracy.plot(steps, 100 * pretrain_history["accuracy"], color=LIGHT["selfie"])
    _mark_chance(accuracy, 100 * chance, f"chance: {100 * chance:.0f} %")
    _name(accuracy, "Pretraining: accuracy", "patches picked rightly (%)")
    accuracy.set_ylim(0, 100)
    for arm, history in _in_order(arm_histories):
        style = {"color": LIGHT[arm], "linestyle": LINE_STYLES[arm], "label": ARMS[arm]}
        arms.plot(history["step"], history["loss"], **style)
    _name(arms, "Finetuning: loss", "loss on training labels (nats)")
    for axes in (loss, arms):
        axes.set_ylim(bottom=0)
    if arm_histories:
        arms.legend()
    figure.set_label(_describe_training(pretrain_history, arm_histories, chance))
    return figure


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
    if table.empty:
        raise ValueError("no results to draw")
    panels = [(name, rows) for name, rows in table.groupby(["data", "network"], sort=False)]
    figure = Figure(figsize=(7, 4.6 * len(panels)))
    for axes, ((data, network), rows) in zip(
        figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True
    ):
        for arm, results in _in_order({str(arm): part for arm, part in rows.groupby("arm")}):
            _draw_arm(axes, arm, results)
        _label_fractions(axes, rows)
        axes.set_title(f"{data}, {network}")
        axes.set_ylabel("test accuracy (%)")
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.24), ncols=2, borderaxespad=0)
        axes.margins(y=0.12)
    figure.set_label(_describe_accuracy(table))
    return figure


def _in_order(arms: Mapping[str, pd.DataFrame]) -> list[tuple[str, pd.DataFrame]]:
    """The arms that there are, always in the same order."""
    return [(arm, arms[arm]) for arm in ARMS if arm in arms]


def _name(axes: Axes, title: str, quantity: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("training step")
    axes.set_ylabel(quantity)


def _mark_chance(axes: Axes, level: float, label: str) -> None:
    """A dotted line where a network stands that knows nothing."""
    axes.axhline(level, color=LIGHT["muted"], linestyle=":", linewidth=1.4, label="chance")
    axes.annotate(
        label,
        (1, level),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        color=LIGHT["muted"],
    )


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


def _error_bars(std: pd.Series[float]) -> pd.Series[float] | None:
    """No bars at all where no mean has a spread: a bar of no height would claim one."""
    return std if std.notna().any() else None


def _count(seeds: pd.Series[int]) -> str:
    fewest, most = seeds.min(), seeds.max()
    return f"n = {fewest}" if fewest == most else f"n = {fewest} to {most}"


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


def _describe_training(
    pretraining: pd.DataFrame, arms: Mapping[str, pd.DataFrame], chance: float
) -> str:
    last = pretraining.iloc[-1]
    losses = (
        f"{ARMS[arm]} ends at a training loss of {history['loss'].iloc[-1]:.2f}"
        for arm, history in _in_order(arms)
    )
    return _sentences(
        f"Line charts over the training steps: after {last['step']:,.0f} steps of pretraining "
        f"the puzzle's loss is {last['loss']:.2f} nats (chance {-math.log(chance):.2f}) and "
        f"{100 * last['accuracy']:.0f} % of the masked patches are picked rightly "
        f"(chance {100 * chance:.0f} %)",
        *losses,
    )


def _describe_accuracy(table: pd.DataFrame) -> str:
    points = (
        f"{row.data}, {row.labeled_percent:g} %, {ARMS[str(row.arm)]}: {row.mean:.1f} %"
        for row in table.itertuples()
    )
    return _sentences("Chart of test accuracy over the share of labels seen", *points)


def _sentences(*parts: str) -> str:
    return ". ".join(parts) + "."
