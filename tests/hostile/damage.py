"""Hypothesis strategies that damage bytes and trees of plain data, and unexpected values."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
from hypothesis import strategies as st

_CONTROLS = "\x00\x07\x1b[31m\n\r\t\x7f\x85\u200b\u202e\u2028\ufeff"
NAMES = st.one_of(
    st.text(max_size=20),
    st.text(alphabet=_CONTROLS + "aé漢🐈/\\.'\"$`{}%:;=,#", max_size=12),
    st.sampled_from(
        ["", ".", "..", "../..", "/", "~", "null", "None", "NaN", "007", "-1", "a" * 300]
    ),
)
"""Texts: any characters, controls, quotes and paths among them."""

NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from(
        [0, -1, 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 10**400, -0.0, 1e-320]
    ),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, NAMES)


def _nest(depth: int) -> Any:
    tree: Any = 0
    for _ in range(depth):
        tree = [tree]
    return tree


_LARGE = st.one_of(
    st.sampled_from([30, 300]).map(_nest),
    st.just(5_000).map(lambda length: [0] * length),
    st.just("x" * 50_000),
)
JUNK = st.one_of(
    *[SCALARS] * 6,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
        max_leaves=6,
    ),
    _LARGE,
)
"""Plain data of any type and depth."""


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> tuple[bytes, str]:
    """Damage bytes as disks, transfers and people do; return them and a description."""
    how = draw(
        st.sampled_from(
            [
                "cut off",
                "flipped",
                "overwritten",
                "removed",
                "repeated",
                "inserted",
                "zeros",
                "junk",
            ]
        )
    )
    size = len(content)
    near_start = st.integers(0, min(size, 64) - 1)
    first = draw(st.one_of(st.integers(0, size - 1), near_start))
    length = draw(st.one_of(st.integers(1, 8), st.integers(1, size)))
    before, inside, after = (
        content[:first],
        content[first : first + length],
        content[first + length :],
    )
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).bytes(min(length, 4096))
    if how == "flipped":
        bit = draw(st.integers(0, 7))
        inside = bytes([inside[0] ^ 1 << bit]) + inside[1:]
    damaged = {
        "cut off": before,
        "flipped": before + inside + after,
        "overwritten": before + noise + after,
        "removed": before + after,
        "repeated": before + inside + inside + after,
        "inserted": before + noise + inside + after,
        "zeros": before + bytes(len(inside)) + after,
        "junk": noise,
    }[how]
    return damaged, f"{how} at {first} of {size}"


def _places(tree: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a tree."""
    members = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    return [place, *(found for key, value in members for found in _places(value, (*place, key)))]


def _similar(value: Any) -> st.SearchStrategy[Any]:
    """Return a strategy of values of the same type."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return st.one_of(st.integers(0, 100), st.integers(value - 2, value + 2), st.integers())
    if isinstance(value, float):
        return st.one_of(st.floats(0, 1), st.floats())
    if isinstance(value, str):
        return NAMES
    if isinstance(value, list):
        return st.sampled_from([[], value[1:], value + value, value[:1] * 3, value[::-1]])
    return JUNK


@st.composite
def damaged_tree(draw: st.DrawFn, tree: Any, junk: st.SearchStrategy[Any] = JUNK) -> Any:
    """Replace, remove, add or rename one to three values of a tree of plain data."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        places = _places(tree)[1:]
        if not places:
            return draw(junk)
        *parents, last = draw(st.sampled_from(places))
        parent = tree
        for key in parents:
            parent = parent[key]
        how = draw(
            st.sampled_from(
                ["replaced", "replaced", "varied", "varied", "removed", "added", "renamed"]
            )
        )
        if how == "varied":
            parent[last] = draw(_similar(parent[last]))
        elif how == "replaced" or isinstance(parent, list):
            parent[last] = draw(junk)
        elif how == "removed":
            del parent[last]
        elif how == "added":
            parent[draw(NAMES)] = draw(junk)
        else:
            parent[draw(NAMES)] = parent.pop(last)
    return tree


@st.composite
def damaged_json(draw: st.DrawFn, tree: Any) -> tuple[bytes, str]:
    """Damage the values or the bytes of a JSON file."""
    if draw(st.integers(0, 3)):
        return json.dumps(draw(damaged_tree(tree))).encode(), "values changed"
    return draw(damaged_bytes(json.dumps(tree).encode()))
