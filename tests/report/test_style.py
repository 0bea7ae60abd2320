"""Tests of the figures' style."""

from __future__ import annotations

from matplotlib.figure import Figure

from selfie_pipeline.report.style import select_installed, styled


def test_fonts_that_are_not_installed_are_left_out() -> None:
    bundled = ["STIXGeneral", "DejaVu Serif"]
    assert select_installed(["no such font", *bundled]) == bundled


def test_a_figure_has_its_font_without_a_warning() -> None:
    @styled
    def draw() -> Figure:
        figure = Figure()
        figure.text(0.5, 0.5, "cat")
        return figure

    (text,) = draw().texts
    assert text.get_fontfamily()[0] == "DejaVu Sans"
