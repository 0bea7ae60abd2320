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


def test_training_curves_without_an_arm(history) -> None:
    figure = draw_training_curves(history, {}, chance=1 / 13)
    assert figure.axes[2].get_legend() is None
    with pytest.raises(ValueError, match="chance"):
        draw_training_curves(history, {}, chance=25)
