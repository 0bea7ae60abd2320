"""Provenance: the record of a result's origin that is stored with it.

It contains no time, so that equal runs produce equal files; a version's name has the time.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from selfie_pipeline.config import UserError

DATA_PARAMETERS = "data"
"""Key, in the attributes of a table of samples, of the parameters that it was made with."""
LABEL_TABLES = "label_tables"
"""Key, among these parameters, of the SHA-256 of each label table by its path."""
_WITHOUT_INFLUENCE = {"log_every", "checkpoint_every"}
_ADDED = {"smallest_crop": None, "colour_jitter": 0.0, "weights": None}
"""Later parameters, with the values that change nothing. Left out where they have these, so that
versions and checkpoints of earlier releases keep their identity."""
_MADE_BY = {"encoder": "--pipeline=pretrain", "classifier": "--pipelines=finetune,baseline"}
_LIBRARIES = ("torch", "torchvision", "timm", "kedro", "numpy", "scikit-learn")


def dump_configuration(**parts: BaseModel) -> dict[str, Any]:
    """Return the parameters that a result depends on, as plain data."""
    dumped = {name: part.model_dump(exclude=_WITHOUT_INFLUENCE) for name, part in parts.items()}
    return {
        name: {key: value for key, value in part.items() if (key, value) not in _ADDED.items()}
        for name, part in dumped.items()
    }


@contextmanager
def readable_provenance(owner: Literal["encoder", "classifier"], part: str) -> Iterator[None]:
    """Read a part of the provenance of weights, which another version of this project may lack.

    Raises:
        UserError: An error that means so is raised within the context.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()[:20])
        raise UserError(
            f"the {owner}'s provenance does not describe its {part} ({reason}): another version of "
            f"this project made it; run `kedro run {_MADE_BY[owner]}` again"
        ) from None


def hash_json(value: Mapping[str, Any]) -> str:
    """Return SHA-256 of plain data in hex digits; the order of keys makes no difference."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def hash_file(path: Path) -> str | None:
    """Return SHA-256 of a file in hex digits; None if it can't be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def flatten(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys and the values of nested dictionaries."""
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def find_differences(
    one: Mapping[str, Any], other: Mapping[str, Any], absent: Any = None
) -> list[tuple[str, Any, Any]]:
    """Return the dotted keys at which two nested dictionaries differ, each with both values.

    A key that a dictionary does not have has the value `absent`.
    """
    first, second = dict(flatten(one)), dict(flatten(other))
    pairs = (
        (key, first.get(key, absent), second.get(key, absent))
        for key in sorted(first.keys() | second.keys())
    )
    return [(key, old, new) for key, old, new in pairs if old != new]


@cache
def describe_environment() -> dict[str, Any]:
    """Return the versions of Python, the libraries and this project, and its commit.

    They are those of the first call: a later commit is not that of the code in this process.
    """
    return {
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("selfie-pipeline", *_LIBRARIES)},
        "commit": _describe_commit(),
    }


def _describe_commit() -> str:
    """Return the commit of the checked-out code, with "-dirty" if files have changed since."""
    try:
        _run_git("ls-files", "--error-unmatch", Path(__file__).name)  # or it is another project's
        return _run_git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return "unknown: the code is not a git checkout"


def _run_git(*arguments: str) -> str:
    """Return the output of a git command in this file's folder."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.strip()
