"""The report: one HTML page that needs nothing but itself."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import jinja2
import matplotlib as mpl
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from selfie_pipeline.evaluation.tables import ARMS, Cell, Selection
from selfie_pipeline.report import style
from selfie_pipeline.report.text import NOTHING, blocks, readable, significance_table, verdict

_FEW_VALUES = 4
_MANY_ITEMS = 12
_DIGITS = 12
"""So many digits of a hash tell all that one has."""
_SVG_STYLE: Any = {"svg.hashsalt": "selfie", "svg.fonttype": "path", "image.composite_image": False}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def render_report(
    table: pd.DataFrame,
    selection: Selection,
    *,
    data: str,
    counts: pd.DataFrame,
    figures: Mapping[str, Figure],
) -> str:
    """Lay out everything that is known of the results on one page.

    Args:
        table: As `tables.results_table` makes it.
        selection: The cells behind the table, and those left out, as `tables.select` finds them.
        data: Name of the data set.
        counts: Images of each class (index: its name) in each split (columns), integers.
        figures: What to show, by heading, in order; a figure's label becomes its alt text.

    Returns:
        An HTML document without scripts and without requests to anywhere.

    Raises:
        ValueError: A figure has no label.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["thousands"] = "{:,}".format
    environment.filters["origin"] = _origin
    source = resources.files(__package__).joinpath("report.html.jinja").read_text("utf-8")
    return environment.from_string(source).render(
        data=data,
        verdict=verdict(table),
        results=blocks(readable(table)),
        sure=blocks(significance_table(table)),
        one_seed=bool((table["seeds"] < 2).any()),  # noqa: PLR2004
        paper=bool(table["paper_mean"].notna().any()),
        counts=counts.assign(total=counts.sum(axis=1)).rename_axis("class").reset_index(),
        totals=["all", *counts.sum(), counts.to_numpy().sum()],
        figures=[
            {
                "title": title,
                "alt": _alt_text(title, figure),
                "svg": _inline_svg(figure, f"figure{number}"),
                "inches": figure.get_figwidth(),
            }
            for number, (title, figure) in enumerate(figures.items())
        ],
        provenance=_provenance(selection),
        selection=selection,
        arms=ARMS,
        light=style.LIGHT,
        dark=style.DARK,
    )


def _alt_text(title: str, figure: Figure) -> str:
    label = str(figure.get_label())
    if not label:
        raise ValueError(f"the figure {title!r} has no label to serve as its alt text")
    return label


def _inline_svg(figure: Figure, prefix: str) -> Markup:
    """The figure as an SVG element whose colours follow the page and whose ids are its own."""
    buffer = io.StringIO()
    with mpl.rc_context(_SVG_STYLE):
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    for role, colour in style.LIGHT.items():
        svg = svg.replace(colour, f"var(--{role})")
    return Markup(svg)  # noqa: S704  # matplotlib's own output, its text drawn as outlines


def _provenance(selection: Selection) -> dict[str, dict[str, str]]:
    """All values found in the used cells, by part (such as "configuration") and key."""
    found: dict[str, dict[str, list[Any]]] = {"": {}}
    for cell in selection.used:
        for path, value in _leaves(cell["provenance"]):
            part, name = (path[0], ".".join(path[1:])) if len(path) > 1 else ("", path[0])
            found.setdefault(part, {}).setdefault(name, []).append(value)
    cells = len(selection.used)
    return {
        part: {name: _in_words(values, cells) for name, values in named.items()}
        for part, named in found.items()
    }


def _leaves(
    nested: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values of a nested dictionary, each with the keys that lead to it."""
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, str(key)))
        else:
            yield (*above, str(key)), value


def _in_words(values: list[Any], cells: int) -> str:
    """The distinct values of a key; where not all cells have the same, how many have each."""
    distinct = Counter(map(_brief, values))
    if len(distinct) == 1 and len(values) == cells:
        return _brief(values[0])
    if len(distinct) > _FEW_VALUES:
        ordered = sorted(values, key=lambda value: (str(type(value)), value))
        return f"{_brief(ordered[0])} to {_brief(ordered[-1])} ({len(distinct)} values)"
    return ", ".join(f"{value} ({count}×)" for value, count in distinct.items())


def _brief(value: Any) -> str:
    """A value as people read it, or how long it is if it would fill the page."""
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        if len(value) > _MANY_ITEMS:
            return f"{len(value)} items, {value[0]} to {value[-1]}"
        return f"[{', '.join(map(_brief, value))}]"
    return _shorten_hash(str(value))


def _origin(cell: Cell) -> dict[str, str]:
    """Where one cell comes from, by the heads of its table."""
    provenance = cell["provenance"]
    known = {
        "Configuration": str(cell["configuration"])[:_DIGITS],
        "Data": str(provenance.get("data", NOTHING))[:_DIGITS],
        "Encoder": str(provenance.get("encoder") or NOTHING)[:_DIGITS],
        "Device": str(provenance.get("device", NOTHING)),
        "Commit": _shorten_hash(str(provenance.get("commit", NOTHING))),
    }
    versions = provenance.get("versions", {})
    return known | {"Versions": ", ".join(f"{name} {v}" for name, v in versions.items())}


def _shorten_hash(text: str) -> str:
    """The first digits of a digest or commit, and whether files were changed since."""
    return re.sub(rf"^([0-9a-f]{{{_DIGITS}}})[0-9a-f]{{28,}}", r"\1", text)
