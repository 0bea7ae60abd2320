"""Checkpoints, from which an interrupted training resumes as if it had never stopped.

A batch follows from seed and step, so a checkpoint holds the step, the weights, the momentum and
the history, and no random state. Each is one safetensors file, written atomically, with its
checksum in a record beside it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from selfie_pipeline.config import UserError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A training's state between two steps.

    Attributes:
        step: Steps done.
        tensors: By name: weights, statistics, momentum and the history so far.
    """

    step: int
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training, in a folder of their own.

    Attributes:
        folder: The folder, created at the first save.
        identity: The parameters, data and initial weights of the training. Only checkpoints of an
            equal identity are resumed from.
        every: Steps between two checkpoints.
        resume: `auto` resumes if possible; `never` starts from scratch.
        keep: Number of checkpoints to keep.
    """

    folder: Path
    identity: Mapping[str, Any]
    every: int
    resume: Literal["auto", "never"]
    keep: int = 3

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then remove the oldest, and any of another training further on.

        Raises:
            UserError: The system refused (disk full, permissions). Older checkpoints are intact.
        """
        file = self.folder / f"step-{checkpoint.step:09d}.safetensors"
        partial = self.folder / f".partial-{file.name}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(checkpoint.tensors, partial)
            record = {
                "step": checkpoint.step,
                "sha256": _sha256(partial),
                "identity": self.identity,
            }
            _flush(partial)
            partial.replace(file)
            # The record makes the checkpoint valid, so it comes last.
            _write_whole(file.with_suffix(".json"), json.dumps(record))
        except Exception as error:
            with suppress(OSError):  # the first error is the one to tell
                partial.unlink()
            raise UserError(
                f"the checkpoint at step {checkpoint.step} was not saved in {self.folder}: "
                f"{error}; earlier ones are intact: mend that (free space, permissions) and run "
                "the same command to go on from them"
            ) from error
        records = self._records()
        # Checkpoints beyond this step could not be used; they must not displace those that can.
        ahead = [record for record in records if record.stem > file.stem]
        for old in ahead + records[len(ahead) :][self.keep :]:
            _remove(old)

    def latest(self) -> Checkpoint | None:
        """Return the latest intact checkpoint of this training; None if there is none.

        Checkpoints that can't be used are logged with the reason.
        """
        records = self._records()
        if self.resume == "never":
            if records:
                _LOG.info("resume = never: the checkpoints in %s are not used", self.folder)
                self.clear()
            return None
        for record in records:
            try:
                return self._read(record)
            except _UnusableCheckpointError as reason:
                _LOG.warning("%s is not used: %s", record.with_suffix(".safetensors"), reason)
        return None

    def write_record(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file beside the checkpoints, for diagnosis."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _write_whole(
            self.folder / f"{name}.json", json.dumps({**content, "identity": self.identity})
        )

    def clear(self) -> None:
        """Remove all checkpoints."""
        for record in self._records():
            _remove(record)

    def _records(self) -> list[Path]:
        """Return the records, the latest first."""
        return sorted(self.folder.glob("step-*.json"), reverse=True)

    def _read(self, path: Path) -> Checkpoint:
        file = path.with_suffix(".safetensors")
        try:
            record = json.loads(path.read_text("utf-8"))
            step, checksum, identity = record["step"], record["sha256"], record["identity"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _UnusableCheckpointError(f"its record is damaged ({error})") from None
        different = _differences(identity, json.loads(json.dumps(self.identity)))
        if different:
            raise _UnusableCheckpointError(f"it was made with different {', '.join(different)}")
        try:
            if _sha256(file) != checksum:
                raise _UnusableCheckpointError("its checksum does not match: the file is damaged")
        except OSError as error:
            raise _UnusableCheckpointError(f"it can't be read ({error})") from None
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return Checkpoint(step, tensors)


class _UnusableCheckpointError(Exception):
    """A checkpoint can't be resumed from; the message is the reason."""


def _differences(theirs: Any, ours: Any, key: str = "") -> list[str]:
    """Return the dotted keys at which two trees of plain data differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        names = sorted(theirs.keys() | ours.keys())
        return [
            found
            for name in names
            for found in _differences(theirs.get(name), ours.get(name), f"{key}.{name}".strip("."))
        ]
    return [] if theirs == ours else [key]


def _remove(record: Path) -> None:
    record.unlink()  # first: a file without its record is never read
    record.with_suffix(".safetensors").unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(text, "utf-8")
    _flush(partial)
    partial.replace(path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    """Force a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
