"""The report: a self-contained HTML page."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, get_args

import matplotlib as mpl
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from selfie_pipeline.evaluation.selection import Cell, Selection
from selfie_pipeline.evaluation.tables import ARMS, has_one_seed
from selfie_pipeline.provenance import flatten
from selfie_pipeline.report import style
from selfie_pipeline.report.duplicates import describe_overlaps, has_leaked
from selfie_pipeline.report.templates import render_template
from selfie_pipeline.report.text import (
    MISSING,
    display_table,
    name_compared,
    significance_table,
    table_title,
    verdict,
)

Section = Literal["data", "convergence", "seeds", "errors", "more"]
"""A part of the page: three that tell whether to trust the verdict, what the classifier gets wrong,
and what else there is."""

_MAX_LISTED_VALUES = 4
_MAX_LISTED_ITEMS = 12
_HASH_DIGITS = 12
_SVG_STYLE: Any = {"svg.hashsalt": "selfie", "svg.fonttype": "path", "image.composite_image": False}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def render_report(
    table: pd.DataFrame,
    selection: Selection,
    *,
    counts: pd.DataFrame,
    check: Mapping[str, Any],
    figures: Mapping[Section, Mapping[str, Figure]],
) -> str:
    """Render the results as one HTML page.

    Args:
        table: From `tables.build_results_table`.
        selection: The cells of the table, and those left out, from `selection.select_cells`.
        counts: Images of each class (index: its name) in each split (columns), integers.
        check: From `check_data`; empty if the data has not been checked.
        figures: Of each section, by heading, in order; a figure's label becomes its alt text.

    Returns:
        An HTML document that contains no scripts and requests no other files.
    """
    return render_template(
        "report.html.jinja",
        data=str(table["data"].iloc[0]),
        verdict=verdict(table),
        title=table_title(table),
        results=display_table(table),
        tests=significance_table(table),
        one_seed=has_one_seed(table),
        paper=bool(table["paper_mean"].notna().any()),
        counts=counts.assign(total=counts.sum(axis=1)).rename_axis("class").reset_index(),
        totals=["all", *counts.sum(), counts.to_numpy().sum()],
        check=check,
        overlaps=describe_overlaps(check),
        leaked=has_leaked(check),
        split_changed=any(
            cell["provenance"].get("pretraining_excludes_test_split") is False
            for cell in selection.used
        ),
        steps=suggest_next_steps(table, selection, check),
        figures={
            section: [
                {
                    "title": title,
                    "alt": str(figure.get_label()),
                    "svg": _to_inline_svg(figure, f"{section}{number}"),
                    "inches": figure.get_figwidth(),
                }
                for number, (title, figure) in enumerate(figures.get(section, {}).items())
            ]
            for section in get_args(Section)
        },
        provenance=_summarise_provenance(selection),
        selection=selection,
        origin=_describe_origin,
        arms=ARMS,
        ours=name_compared(table),
        light=style.LIGHT,
        dark=style.DARK,
    )


def suggest_next_steps(
    table: pd.DataFrame, selection: Selection, check: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Suggest what to do with the results; the arguments are those of `render_report`.

    Returns:
        Sentences, each with a command.
    """
    steps = []
    if not check:
        steps.append(("The data has not been checked.", "kedro run --pipeline=patch"))
    elif has_leaked(check) and not check["dropped"]:
        steps.append(
            (
                "Look at the images in two splits; to train without them:",
                "kedro run --params data.drop_leaked=true",
            )
        )
    fractions = ",".join(f"{percent / 100:g}" for percent in table["labeled_percent"].unique())
    grid = f'--params "experiment.labeled_fracs=[{fractions}]"'
    if has_one_seed(table):
        steps.append(("Several seeds, for an interval:", f"kedro run --pipeline=experiment {grid}"))
    if not all(cell["provenance"].get("tuned") for cell in selection.used):
        steps.append(
            (
                "The learning rate at its best for both arms:",
                f"kedro run --pipelines=tune,experiment {grid}",
            )
        )
    predict = "kedro run --pipeline=predict --params images=FOLDER"
    return [*steps, ("The classifier on other images:", predict)]


def _to_inline_svg(figure: Figure, prefix: str) -> Markup:
    """Convert a figure to an SVG element with prefixed ids and the page's CSS colours."""
    buffer = io.StringIO()
    with mpl.rc_context(_SVG_STYLE):
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    for role, colour in style.LIGHT.items():
        svg = svg.replace(colour, f"var(--{role})")
    return Markup(svg)  # noqa: S704  # matplotlib's own output; text is drawn as outlines


def _summarise_provenance(selection: Selection) -> dict[str, dict[str, str]]:
    """Summarise the used cells' provenance, by section (such as "configuration") and key."""
    values: dict[str, dict[str, list[Any]]] = {"": {}}
    for cell in selection.used:
        for key, value in flatten(cell["provenance"]):
            section, name = key.split(".", 1) if "." in key else ("", key)
            values.setdefault(section, {}).setdefault(name, []).append(value)
    return {
        section: {
            name: _summarise_values(found, len(selection.used)) for name, found in named.items()
        }
        for section, named in values.items()
    }


def _summarise_values(values: list[Any], cells: int) -> str:
    """Return the value that all cells share, or the distinct values with their counts."""
    distinct = Counter(map(_format_value, values))
    if len(distinct) == 1 and len(values) == cells:
        return _format_value(values[0])
    if len(distinct) > _MAX_LISTED_VALUES:
        ordered = sorted(values, key=lambda value: (str(type(value)), value))
        first, last = _format_value(ordered[0]), _format_value(ordered[-1])
        return f"{first} to {last} ({len(distinct)} values)"
    return ", ".join(f"{value} ({count}×)" for value, count in distinct.items())


def _format_value(value: Any) -> str:
    """Format a value, or the length and ends of a long list."""
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        if len(value) > _MAX_LISTED_ITEMS:
            return f"{len(value)} items, {value[0]} to {value[-1]}"
        return f"[{', '.join(map(_format_value, value))}]"
    return _shorten_hash(str(value))


def _describe_origin(cell: Cell) -> dict[str, str]:
    """Return the provenance of one cell, by column of the page's table of cells."""
    provenance = cell["provenance"]
    versions = provenance.get("versions", {})
    return {
        "Configuration": str(cell["configuration"])[:_HASH_DIGITS],
        "Data": str(provenance.get("data", MISSING))[:_HASH_DIGITS],
        "Encoder": str(provenance.get("encoder") or MISSING)[:_HASH_DIGITS],
        "Device": str(provenance.get("device", MISSING)),
        "Commit": _shorten_hash(str(provenance.get("commit", MISSING))),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def _shorten_hash(text: str) -> str:
    """Shorten a digest or a commit's hash, keeping a suffix such as "-dirty"."""
    return re.sub(rf"^([0-9a-f]{{{_HASH_DIGITS}}})[0-9a-f]{{28,}}", r"\1", text)
