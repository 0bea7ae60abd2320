"""Templates of the page and the model card, in which text from data and results is escaped."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from selfie_pipeline.printable import escape_controls


def render_template(name: str, /, *, html: bool, **values: Any) -> str:
    """Render a template of this package.

    Args:
        name: Name of its file.
        html: Whether the text of values is escaped for HTML; control characters always are.
        values: Values of its variables; a `Markup` among them is inserted as it is.

    Raises:
        jinja2.UndefinedError: A variable has no value.
    """
    environment = jinja2.Environment(
        autoescape=html,  # noqa: S701  # one of the templates is Markdown
        finalize=_escape_controls,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = "{:,}".format
    environment.filters["markdown"] = _escape_markdown
    source = resources.files(__package__).joinpath(name).read_text("utf-8")
    return environment.from_string(source).render(values)


def _escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>#|&~$])", r"\\\1", escape_controls(text))


def _escape_controls(value: Any) -> Any:
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return escape_controls(value) if is_text else value
