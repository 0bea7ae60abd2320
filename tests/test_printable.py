"""Tests of escaping control characters."""

from __future__ import annotations

import pytest

from selfie_pipeline.printable import escape_controls, is_printable, shorten


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a\nb", r"a\nb"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x9b2J", r"\x9b2J"),
        ("user\u202egnp.exe", r"user\u202egnp.exe"),
        ("\u2066isolated\u2069", r"\u2066isolated\u2069"),
        ("two\u2028lines", r"two\u2028lines"),
        ("\udce9", r"\udce9"),
        ("\0", r"\x00"),
    ],
)
def test_control_characters_are_escaped(text: str, escaped: str) -> None:
    assert not is_printable(text)
    assert escape_controls(text) == escaped
    assert is_printable(escaped)


@pytest.mark.parametrize(
    "text", ["golden retriever", "Löwe", "猫", "کتاب\u200cها", "👩\u200d🌾", "חתול", r"back\slash"]
)
def test_names_in_any_script_stay_as_they_are(text: str) -> None:
    assert is_printable(text)
    assert escape_controls(text) == text


def test_only_long_texts_are_shortened() -> None:
    assert shorten("ab" * 5, limit=10) == "ab" * 5
    assert shorten("a" * 500 + "b" * 500, limit=10) == "aaaaa…bbbb"
