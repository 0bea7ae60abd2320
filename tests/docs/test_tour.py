"""The tours of docs/architecture.md: every stop is a name that its file defines."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
STOP = re.compile(r"\[`(\w+)`\]\(\.\./(src/[\w/]+\.py)\)")


def tours() -> dict[str, list[tuple[str, str]]]:
    """Return the stops of each tour: names and files."""
    sections = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    return {
        section.splitlines()[0]: STOP.findall(section)
        for section in sections
        if section.startswith("Tour")
    }


def defined(path: Path) -> set[str]:
    """Return the names of all classes and functions of a file."""
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    kinds = (ast.ClassDef, ast.FunctionDef)
    return {node.name for node in nodes if isinstance(node, kinds)}


@pytest.mark.parametrize(("name", "file"), [stop for stops in tours().values() for stop in stops])
def test_every_stop_is_defined_where_the_tour_links(name: str, file: str) -> None:
    assert name in defined(PAGE.parents[1] / file)


def test_there_are_two_tours_of_at_most_twenty_stops() -> None:
    assert len(tours()) == 2
    assert all(5 <= len(stops) <= 20 for stops in tours().values())
