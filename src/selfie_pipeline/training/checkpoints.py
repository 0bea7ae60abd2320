"""Checkpoints, from which an interrupted training resumes as if it had never stopped.

A batch is a function of seed and step, so a checkpoint contains the step, the weights, the momentum
and the history, but no random state. Each is one safetensors file, written atomically, with its
checksum in a JSON record beside it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from selfie_pipeline.atomic_write import atomic_write
from selfie_pipeline.config import UserError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training between two steps.

    Attributes:
        step: Steps completed.
        tensors: Weights, BatchNorm statistics, momentum and the history so far, by name.
    """

    step: int
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training, in their own folder.

    Attributes:
        folder: The folder, created by the first save.
        identity: The parameters, data and initial weights of the training. A training resumes only
            from checkpoints with an equal identity.
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
        """Write a checkpoint, then remove old ones and any of another training at later steps.

        Raises:
            UserError: The file system refused (disk full, permissions). Older checkpoints are
                intact.
        """
        file = self.folder / f"step-{checkpoint.step:09d}.safetensors"
        try:
            with atomic_write(file) as partial:
                save_file(checkpoint.tensors, partial)
                checksum = _sha256(partial)
            # The record makes the checkpoint valid, so it comes last.
            self.write_record(file.stem, {"step": checkpoint.step, "sha256": checksum})
        except Exception as error:
            raise UserError(
                f"the checkpoint at step {checkpoint.step} was not saved in {self.folder}: "
                f"{error}; earlier ones are intact: fix the cause (free space, permissions) and "
                "run the same command to resume from them"
            ) from error
        records = self._records()
        # Checkpoints of later steps can't be used; they must not displace those that can.
        ahead = [record for record in records if record.stem > file.stem]
        for old in ahead + records[len(ahead) :][self.keep :]:
            _remove(old)

    def latest(self) -> Checkpoint | None:
        """Return the latest usable checkpoint of this training, or None.

        Unusable ones are logged with the reason. With `never`, all checkpoints are removed.
        """
        records = self._records()
        if self.resume == "never":
            if records:
                _LOG.info("resume = never: the checkpoints in %s are not used", self.folder)
                self.clear()
            return None
        for record in records:
            try:
                return self._load(record)
            except _UnusableCheckpointError as reason:
                _LOG.warning("%s is not used: %s", record.with_suffix(".safetensors"), reason)
        return None

    def write_record(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file beside the checkpoints: the record of one, or a diagnosis."""
        with atomic_write(self.folder / f"{name}.json") as partial:
            partial.write_text(json.dumps({**content, "identity": self.identity}), "utf-8")

    def clear(self) -> None:
        """Remove all checkpoints."""
        for record in self._records():
            _remove(record)

    def _records(self) -> list[Path]:
        """Return the records, the latest first."""
        return sorted(self.folder.glob("step-*.json"), reverse=True)

    def _load(self, path: Path) -> Checkpoint:
        """Load the checkpoint of a record.

        Raises:
            _UnusableCheckpointError: It is damaged, or belongs to another training.
        """
        file = path.with_suffix(".safetensors")
        try:
            record = json.loads(path.read_text("utf-8"))
            step, checksum, identity = record["step"], record["sha256"], record["identity"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _UnusableCheckpointError(f"its record is damaged ({error})") from None
        different = _differing_keys(identity, json.loads(json.dumps(self.identity)))
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
    """A checkpoint can't be used; the message is the reason."""


def _differing_keys(theirs: Any, ours: Any, key: str = "") -> list[str]:
    """Return the dotted keys at which two trees of plain data differ."""
    if not (isinstance(theirs, dict) and isinstance(ours, dict)):
        return [] if theirs == ours else [key]
    return [
        found
        for name in sorted(theirs.keys() | ours.keys())
        for found in _differing_keys(theirs.get(name), ours.get(name), f"{key}.{name}".strip("."))
    ]


def _remove(record: Path) -> None:
    record.unlink()  # first: a file without its record is never read
    record.with_suffix(".safetensors").unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
