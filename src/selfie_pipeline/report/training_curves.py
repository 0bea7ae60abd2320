"""How the trainings went. The figure's label (`Figure.get_label`) is its description in words."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from selfie_pipeline.evaluation.tables import ARMS, in_order
from selfie_pipeline.report.style import LIGHT, LINE_STYLES, sentences, styled


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
    for arm in in_order(arm_histories):
        history = arm_histories[arm]
        style = {"color": LIGHT[arm], "linestyle": LINE_STYLES[arm], "label": ARMS[arm]}
        arms.plot(history["step"], history["loss"], **style)
    _name(arms, "Finetuning: loss", "loss on training labels (nats)")
    for axes in (loss, arms):
        axes.set_ylim(bottom=0)
    if arm_histories:
        arms.legend()
    figure.set_label(_describe_training(pretrain_history, arm_histories, chance))
    return figure


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


def _describe_training(
    pretraining: pd.DataFrame, arms: Mapping[str, pd.DataFrame], chance: float
) -> str:
    last = pretraining.iloc[-1]
    losses = (
        f"{ARMS[arm]} ends at a training loss of {arms[arm]['loss'].iloc[-1]:.2f}"
        for arm in in_order(arms)
    )
    return sentences(
        f"Line charts over the training steps: after {last['step']:,.0f} steps of pretraining "
        f"the puzzle's loss is {last['loss']:.2f} nats (chance {-math.log(chance):.2f}) and "
        f"{100 * last['accuracy']:.0f} % of the masked patches are picked rightly "
        f"(chance {100 * chance:.0f} %)",
        *losses,
    )
