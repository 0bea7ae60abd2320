"""Names, values and errors of any content, made fit for terminals, Markdown and HTML."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from itertools import islice, takewhile

from pydantic import ValidationError

_CONTROL_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}
"""Controls, surrogates, line and paragraph separators."""
_DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
"""Bidirectional classes of the characters that reverse the text around them."""


def is_printable(text: str) -> bool:
    """Return True unless the text has a line break, a terminal's escape or another control."""
    return not any(map(_is_control, text))


def escape_controls(text: str) -> str:
    r"""Return the text with each control character as its escape, such as ``\x1b`` or ``\n``."""
    if text.isprintable():  # fast: it excludes these and others
        return text
    return "".join(ascii(char)[1:-1] if _is_control(char) else char for char in text)


def shorten(text: str, limit: int = 200) -> str:
    """Return the text; if it is longer than the limit, with an ellipsis in place of its middle."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}…{text[-(limit // 2) + 1 :]}"


def shorten_alike(names: Iterable[str], limit: int) -> dict[str, str]:
    """Map each name to a short form that keeps what distinguishes names of one pattern.

    If a name is longer than the limit, an ellipsis takes the place of the words that all have at
    their beginnings, and of those at their ends. Then each is shortened.
    """
    rests = {name: name for name in names}
    if len(rests) > 1 and max(map(len, rests)) > limit:
        first = re.sub(r"[^\W_]+$", "", _find_prefix(rests))  # whole words only
        rests = {name: name[len(first) :] for name in rests}
        last = _find_prefix([rest[::-1] for rest in rests.values()])[::-1]
        last = re.sub(r"^[^\W_]+", "", last)
        start, end = "…" if first else "", "…" if last else ""
        rests = {name: start + rest.removesuffix(last) + end for name, rest in rests.items()}
    return {name: shorten(rest, limit) for name, rest in rests.items()}


def _find_prefix(texts: Collection[str]) -> str:
    """Return the common beginning of texts; `os.path.commonprefix` is for paths, and deprecated."""
    # All others are between these two in alphabetical order. One may be longer than the other.
    pairs = zip(min(texts), max(texts), strict=False)
    return "".join(char for char, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _is_control(char: str) -> bool:
    return (
        unicodedata.category(char) in _CONTROL_CATEGORIES
        or unicodedata.bidirectional(char) in _DIRECTIONS
    )


def list_first(names: Collection[str], limit: int = 5) -> str:
    """Join the first names, with control characters escaped, and count the others."""
    first = map(escape_controls, islice(names, limit))
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(first) + more


def explain(error: Exception) -> str:
    """Return the reason of an error in one line: of a `ValidationError`, that of its first."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error.__cause__ or error).split())
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    reason = " ".join(first["msg"].removeprefix("Value error, ").split())
    if first["type"] in {"value_error", "missing", "json_invalid"}:
        return f"{place}: {reason}" if place else reason
    return f"{place} = {repr(first['input'])[:80]}: {reason}"
