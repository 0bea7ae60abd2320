"""Tests of the training curves."""

from __future__ import annotations

import math

import pytest

from selfie_pipeline.report.training_curves import draw_training_curves


def test_training_curves_mark_chance(history) -> None:
    figure = draw_training_curves(history, {"selfie": history, "supervised": history}, chance=0.25)
    loss, accuracy, arms = figure.axes
    curve, chance = loss.get_lines()
    assert curve.get_ydata().tolist() == history["loss"].tolist()
    assert set(chance.get_ydata()) == {math.log(4)}
    assert [text.get_text() for text in loss.texts] == ["chance: 1.39"]
    curve, chance = accuracy.get_lines()
    assert curve.get_ydata().tolist() == pytest.approx([25, 50, 70, 80, 86])
    assert set(chance.get_ydata()) == {25}
    assert accuracy.get_ylabel() == "correct patches (%)"
    assert [line.get_label() for line in arms.get_lines()] == ["supervised", "Selfie"]
    assert len({line.get_linestyle() for line in arms.get_lines()}) == 2  # readable in grey
    assert "86 % of the target patches" in figure.get_label()


def test_a_single_point_is_visible(history) -> None:
    one = history.iloc[:1]
    figure = draw_training_curves(one, {"selfie": one}, chance=0.25)
    assert [axes.get_lines()[0].get_marker() for axes in figure.axes] == ["o", "o", "o"]
    figure = draw_training_curves(history, {"selfie": history}, chance=0.25)
    assert {axes.get_lines()[0].get_marker() for axes in figure.axes} == {"None"}


def test_panels_say_what_they_show(history) -> None:
    figure = draw_training_curves(history, {"selfie": history, "supervised": history}, chance=0.25)
    assert [(axes.get_title("left"), axes.get_ylabel()) for axes in figure.axes] == [
        ("Pretraining: loss", "puzzle loss (nats)"),
        ("Pretraining: accuracy", "correct patches (%)"),
        ("Finetuning: loss", "training loss (nats)"),
    ]
    assert {axes.get_xlabel() for axes in figure.axes} == {"training step"}
    loss, accuracy, arms = figure.axes
    assert accuracy.get_ylim() == (0, 100)
    assert loss.get_ylim()[0] == arms.get_ylim()[0] == 0
    assert [text.get_text() for text in accuracy.texts] == ["chance: 25 %"]
    assert accuracy.texts[0].xy == (1, 25)
    for line in [loss.get_lines()[0], accuracy.get_lines()[0], *arms.get_lines()]:
        assert line.get_xdata().tolist() == [10, 20, 30, 40, 50]
    assert [line.get_ydata().tolist() for line in arms.get_lines()] == [
        history["loss"].tolist()
    ] * 2
    assert [text.get_text() for text in arms.get_legend().get_texts()] == ["supervised", "Selfie"]
    assert figure.get_label() == (
        "Line charts over the training steps: after 50 steps of pretraining the puzzle loss is "
        "0.50 nats (chance 1.39) and 86 % of the target patches are identified correctly (chance "
        "25 %). supervised: final training loss 0.50. Selfie: final training loss 0.50."
    )


def test_training_curves_without_an_arm(history) -> None:
    figure = draw_training_curves(history, {}, chance=1 / 13)
    assert figure.axes[2].get_legend() is None
