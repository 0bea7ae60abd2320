"""Kinds of bad inputs, and the batches in which Hypothesis generates them.

An input is identified by its kind and its number, because a batch depends on its seed alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from selfie_pipeline.config import UserError

BATCH_SIZE = 50
"""Number of inputs that Hypothesis generates from one seed."""


class WrongResultError(Exception):
    """An input was accepted, and its result is wrong; the message says why."""


@dataclass(frozen=True)
class Link:
    """A symbolic link, as a file of an input."""

    target: str


@dataclass(frozen=True)
class Input:
    """An input, usually a bad one.

    Attributes:
        what: A description in a few words.
        files: Its files, by path in the folder `input`.
        value: Its other data: text, parameters, an address.
        expected: The required answer, if there is one.
    """

    what: str
    files: Mapping[str, bytes | Link] = field(default_factory=dict)
    value: Any = None
    expected: Literal["refused", "accepted", "either"] = "either"

    @property
    def size(self) -> int:
        """Return the size of its files and its value, bytes."""
        contents = (content for content in self.files.values() if isinstance(content, bytes))
        return sum(map(len, contents)) + len(repr(self.value))

    def write(self, folder: Path) -> None:
        """Write its files."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Link):
                path.symlink_to(content.target)
            else:
                path.write_bytes(content)


@dataclass(frozen=True)
class Kind:
    """A kind of bad inputs.

    Attributes:
        name: Its name.
        inputs: The strategy that generates them.
        target: Passes an input to the program, in a folder that has the input's files in `input`
            and an empty folder `data`. Raises an error of `refusals`, `WrongResultError`, or none.
        refusals: Errors by which the program may refuse an input.
        share: Number of its inputs among 1,000 of all kinds.
    """

    name: str
    inputs: SearchStrategy[Input]
    target: Callable[[Input, Path], None]
    refusals: tuple[type[BaseException], ...] = (UserError,)
    share: int = 50


def generate_batch(kind: Kind, base_seed: int, batch: int) -> list[Input]:
    """Generate a batch; Hypothesis may find fewer different inputs than `BATCH_SIZE`."""
    found: list[Input] = []
    digest = hashlib.sha256(f"{base_seed}/{kind.name}/{batch}".encode()).digest()

    @seed(int.from_bytes(digest[:8]))
    @settings(
        max_examples=BATCH_SIZE,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(kind.inputs)
    def collect(generated: Input) -> None:
        found.append(generated)

    collect()
    return found[:BATCH_SIZE]
