"""Training curves; the figure's label is its alt text."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from selfie_pipeline.evaluation.tables import ARMS, order_arms
from selfie_pipeline.report.style import LIGHT, LINE_STYLES, MARKERS, join_sentences, styled


@styled
def draw_training_curves(
    pretrain_history: pd.DataFrame, arm_histories: Mapping[str, pd.DataFrame], chance: float
) -> Figure:
    """Draw the training curves of pretraining and of both arms.

    Args:
        pretrain_history: Columns ``step``, ``loss`` (nats) and ``accuracy`` (fraction of the
            target patches that are identified correctly).
        arm_histories: For each arm, columns ``step`` and ``loss`` (nats, on training batches).
        chance: Accuracy of a random choice: one over the number of target patches.

    Returns:
        Three panels: the puzzle's loss and accuracy, each with its chance level, and the arms'
        losses.
    """
    figure = Figure(figsize=(10, 3.4))
    loss, accuracy, arms = figure.subplots(1, 3)
    steps = pretrain_history["step"]
    # A line of one point is invisible.
    dot = {"marker": "o"} if len(steps) == 1 else {}
    loss.plot(steps, pretrain_history["loss"], color=LIGHT["selfie"], **dot)
    _draw_chance(loss, -math.log(chance), f"chance: {-math.log(chance):.2f}")
    _label_axes(loss, "Pretraining: loss", "puzzle loss (nats)")
    accuracy.plot(steps, 100 * pretrain_history["accuracy"], color=LIGHT["selfie"], **dot)
    _draw_chance(accuracy, 100 * chance, f"chance: {100 * chance:.0f} %")
    _label_axes(accuracy, "Pretraining: accuracy", "correct patches (%)")
    accuracy.set_ylim(0, 100)
    final_losses = []
    for arm in order_arms(arm_histories):
        history = arm_histories[arm]
        style = {"color": LIGHT[arm], "linestyle": LINE_STYLES[arm], "label": ARMS[arm]}
        style |= {"marker": MARKERS[arm]} if len(history) == 1 else {}
        arms.plot(history["step"], history["loss"], **style)
        final_losses.append(f"{ARMS[arm]}: final training loss {history['loss'].iloc[-1]:.2f}")
    _label_axes(arms, "Finetuning: loss", "training loss (nats)")
    for axes in (loss, arms):
        axes.set_ylim(bottom=0)
    if arm_histories:
        arms.legend()
    last = pretrain_history.iloc[-1]
    figure.set_label(
        join_sentences(
            f"Line charts over the training steps: after {last['step']:,.0f} steps of pretraining "
            f"the puzzle loss is {last['loss']:.2f} nats (chance {-math.log(chance):.2f}) and "
            f"{100 * last['accuracy']:.0f} % of the target patches are identified correctly "
            f"(chance {100 * chance:.0f} %)",
            *final_losses,
        )
    )
    return figure


def _label_axes(axes: Axes, title: str, quantity: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("training step")
    axes.set_ylabel(quantity)


def _draw_chance(axes: Axes, level: float, label: str) -> None:
    """Draw a dotted line at the chance level."""
    axes.axhline(level, color=LIGHT["muted"], linestyle=":", linewidth=1.4)
    axes.annotate(
        label,
        (1, level),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        color=LIGHT["muted"],
    )
