"""CITATION.cff, and the version that it and CHANGELOG.md name."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from selfie_pipeline import __version__

REPOSITORY = Path(__file__).parents[2]
REQUIRED = {"cff-version", "message", "title", "authors"}  # by the Citation File Format 1.2.0


def test_the_citation_is_of_this_version_and_names_the_paper():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text("utf-8"))
    assert citation.keys() >= REQUIRED
    assert citation["version"] == __version__
    (paper,) = citation["references"]
    assert "arXiv:1906.02940" in str(paper["identifiers"])
    assert [author["family-names"] for author in paper["authors"]] == ["Trinh", "Luong", "Le"]


def test_the_changelog_has_what_is_not_released_and_then_this_version():
    text = (REPOSITORY / "CHANGELOG.md").read_text("utf-8")
    headings = re.findall(r"^## \[(.+?)\]", text, flags=re.MULTILINE)
    assert headings[:2] == ["Unreleased", __version__]
