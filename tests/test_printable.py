"""Tests of escaping control characters, and of errors in one line."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from selfie_pipeline.printable import (
    escape_controls,
    explain,
    is_printable,
    shorten,
    shorten_alike,
)


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


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (
            [f"species number {n:03} (Linnaeus, 1758)" for n in (0, 10, 299)],
            ["…000…", "…010…", "…299…"],
        ),
        (["plant_leaf_spotted", "plant_leaf_spoiled"], ["…spotted", "…spoiled"]),
        (["a very old oak", "an oak", "a tall old oak"], ["a very old…", "an…", "a tall old…"]),
        (["long name of one class"], ["long n…class"]),
        (["very long, very long", "very long"], ["…long,… long", "…long"]),
        (["golden retriever", "german shepherd"], ["golden…iever", "german…pherd"]),
        (["old oak", "old elm"], ["old oak", "old elm"]),
        ([], []),
    ],
)
def test_long_names_keep_what_differs(names: list[str], short: list[str]) -> None:
    assert shorten_alike(names, limit=12) == dict(zip(names, short, strict=True))


class Record(BaseModel):
    rows: list[int]

    @field_validator("rows")
    @classmethod
    def check(cls, rows: list[int]) -> list[int]:
        if not rows:
            raise ValueError("there are\nno rows")
        return rows


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"rows": [1, "x\\n"]}', r"rows.1 = 'x\n': Input should be a valid integer"),
        ('{"rows": []}', "rows: there are no rows"),
        ("{}", "rows: Field required"),
        ("{", "Invalid JSON: EOF while parsing an object"),
    ],
)
def test_the_first_error_of_a_record_is_one_line(text: str, line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Record.model_validate_json(text)
    assert explain(caught.value).startswith(line)
    assert "\n" not in explain(caught.value)


def test_another_error_is_one_line() -> None:
    assert explain(OSError("one\n two")) == "one two"
