"""Where a number comes from: what is stored beside every result.

Nothing here changes from one run to the next, so equal runs leave equal files; when a run was is
the version's name.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

_NO_INFLUENCE = {"log_every", "checkpoint_every"}
_LIBRARIES = ("torch", "torchvision", "timm", "lightning", "kedro", "numpy", "scikit-learn")


def configuration(**parts: BaseModel) -> dict[str, Any]:
    """The parameters that a result depends on, as plain data: not how often it is looked at."""
    return {name: part.model_dump(exclude=_NO_INFLUENCE) for name, part in parts.items()}


def digest(value: Mapping[str, Any]) -> str:
    """SHA-256 of plain data in hex digits; equal for equal data in any order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def leaves(nested: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dictionaries by their dotted keys."""
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{key}.")
        else:
            yield above + key, value


def environment() -> dict[str, Any]:
    """Versions of Python, of the libraries and of this project, and its commit."""
    return {
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("selfie-pipeline", *_LIBRARIES)},
        "commit": _commit(),
    }


def _commit() -> str:
    """The commit that the code stands at, marked where files were changed since."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        described = subprocess.run(  # noqa: S603
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown: the code is not a git checkout"
    return described.stdout.strip()
