"""Templates of the page and the model card, in which text from data and results is escaped."""

from __future__ import annotations

import re
from typing import Any

import jinja2
from markupsafe import Markup

from selfie_pipeline.printable import escape_controls


def render_template(name: str, /, **values: Any) -> str:
    """Render a template of this package.

    Args:
        name: Name of its file. Text of values is escaped for HTML if it ends in `.html.jinja`;
            control characters always are.
        values: Values of its variables; a `Markup` among them is inserted as it is.

    Raises:
        jinja2.UndefinedError: A variable has no value.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, ""),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        finalize=_escape_controls,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = "{:,}".format
    environment.filters["markdown"] = _escape_markdown
    return environment.get_template(name).render(values)


def _escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>#|&~$])", r"\\\1", escape_controls(text))


def _escape_controls(value: Any) -> Any:
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return escape_controls(value) if is_text else value
