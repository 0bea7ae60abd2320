"""The kinds of bad inputs, one module for each subject."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from tests.hostile.inputs import Kind

MODULES = (
    *("addresses", "archives", "commands", "folders", "images", "parameters", "results", "sets"),
    *("stored", "tracking"),
)


def load_kinds(names: Sequence[str] = MODULES) -> list[Kind]:
    """Return kinds by their full names, such as `images/bombs`, or all kinds of modules."""
    return [
        kind
        for module in dict.fromkeys(name.split("/")[0] for name in names)
        for kind in importlib.import_module(f"{__name__}.{module}").KINDS
        if kind.name in names or module in names
    ]
