"""Style of the figures: palettes for light and dark pages, safe for colour-blind readers."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.figure import Figure

_COLOURS = {  # on a light page and on a dark one
    "ink": ("#1f2328", "#e6edf3"),
    "muted": ("#636c76", "#9aa4af"),
    "faint": ("#d8dee4", "#30363d"),
    "paper": ("#fefefe", "#11151b"),
    "mask": ("#c9cfd6", "#4b545f"),
    "selfie": ("#0072b2", "#5ab4e5"),
    "supervised": ("#d55e00", "#f28f3b"),
    "weights": ("#8a6d00", "#e0c440"),
    "weights_selfie": ("#aa3f80", "#dd8fc0"),
    "correct": ("#00795c", "#3fc79a"),
    "wrong": ("#b83a0b", "#ff8f66"),
}
LIGHT = {role: light for role, (light, _) in _COLOURS.items()}
"""Colours by role on a light page; all differ, so the page can map them to CSS variables."""
DARK = {role: dark for role, (_, dark) in _COLOURS.items()}
"""Colours of the same roles on a dark page."""

LINE_STYLES = {
    "selfie": "-",
    "supervised": (0, (4, 1.5)),
    "weights": (0, (1, 1)),
    "weights_selfie": (0, (5, 1, 1, 1)),
}
MARKERS = {"selfie": "o", "supervised": "s", "weights": "^", "weights_selfie": "D"}

_STYLE: Any = {  # a dict; its type differs between matplotlib's releases
    "axes.axisbelow": True,
    "axes.edgecolor": LIGHT["muted"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": LIGHT["ink"],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": LIGHT["ink"],
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.dpi": 150,
    "figure.facecolor": LIGHT["paper"],
    "font.size": 10,
    "grid.color": LIGHT["faint"],
    "image.composite_image": False,
    "image.interpolation": "none",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "text.color": LIGHT["ink"],
    "text.parse_math": False,  # names of classes may contain "$"
    "xtick.color": LIGHT["muted"],
    "xtick.labelcolor": LIGHT["ink"],
    "ytick.color": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["ink"],
}

_MORE_FONTS = [
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "IPAexGothic",
    "Hiragino Sans",
    "Microsoft YaHei",
]
"""Fonts with Chinese and Japanese characters, which matplotlib's own does not have."""

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorate a drawing function to use this style without changing matplotlib's global one."""

    @functools.wraps(draw)
    def draw_styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        fonts = {"font.family": ["DejaVu Sans", *select_installed(_MORE_FONTS)]}
        with mpl.rc_context(_STYLE | fonts), warnings.catch_warnings():
            figure = draw(*args, **kwargs)
            # After one pass of the constrained layout, labels may still be cut off.
            warnings.filterwarnings("ignore", message="constrained_layout not applied")
            figure.draw_without_rendering()
        return figure

    return draw_styled


def select_installed(fonts: Sequence[str]) -> list[str]:
    """Return those of the fonts that are installed; matplotlib warns of each that is not."""
    installed = set(font_manager.get_font_names())
    return [font for font in fonts if font in installed]


def join_sentences(*parts: str) -> str:
    """Join the parts of a figure's description, without full stops, into sentences."""
    return ". ".join(parts) + "."


def shorten_start(path: str, limit: int) -> str:
    """Cut a path to at most `limit` characters at its start, because its end is more specific."""
    return path if len(path) <= limit else f"…{path[1 - limit :]}"
