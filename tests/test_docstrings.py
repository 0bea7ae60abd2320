"""Tests of the docstrings' language: none is a fragment that begins with a question word."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "selfie_pipeline"
MODULES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))
FRAGMENT = re.compile(r"\s*(What|Where|How|Whether|Who|Whose|Why|When|Which|Is told|Such)\b")


def find_docstrings(source):
    """Return the docstrings of a module, its classes, functions, attributes and constants."""
    return [
        node.value.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]


@pytest.mark.parametrize("module", MODULES)
def test_no_docstring_begins_with_a_question_word(module):
    source = (SOURCE / module).read_text("utf-8")
    assert [text for text in find_docstrings(source) if FRAGMENT.match(text)] == []


def test_all_kinds_of_docstrings_are_checked():
    source = '"""A"""\nx = 1\n"""B"""\nclass C:\n    """D"""\n    def f(self):\n        r"""E"""'
    assert sorted(find_docstrings(source)) == ["A", "B", "D", "E"]


@pytest.mark.parametrize("text", ["What trains.", "Is told how far it is.", "\n    Whether it is."])
def test_fragments_are_recognised(text):
    assert FRAGMENT.match(text)


@pytest.mark.parametrize("text", ["Whatever the size, return it.", "Return where it is stored."])
def test_sentences_are_accepted(text):
    assert not FRAGMENT.match(text)
