"""Checkpoints, from which an interrupted training resumes as if it had never stopped.

A batch is a function of seed and step, so a checkpoint contains the step, the weights, the momentum
and the history, but no random state. Each is one safetensors file, written atomically, with its
checksum in a JSON record beside it.

Each training has a folder of its own, named by a hash of its identity, so that no training removes
the checkpoints of another, which may resume yet. Only one process at a time writes to it: the one
that holds its lock.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from selfie_pipeline.atomic_write import atomic_write
from selfie_pipeline.config import NonNegativeInt, UserError
from selfie_pipeline.locks import lock
from selfie_pipeline.provenance import find_differences, hash_json
from selfie_pipeline.training.signals import resume_command

_LOG = logging.getLogger(__name__)
_COMPLETED: set[Path] = set()
"""The folders of trainings that this process has completed, for the end of the run. Nothing on the
disk tells them from those of another process, whose result may not be saved yet."""


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
    """The checkpoints of one training.

    Attributes:
        path: Path of the folder, to which a hash of the identity is appended.
        identity: The parameters, data and initial weights of the training. A training resumes only
            from checkpoints with an equal identity.
        every: Steps between two checkpoints.
        resume: `auto` resumes if possible; `never` starts from scratch.
        keep: Number of checkpoints to keep: the latest, and earlier ones in case it is damaged;
            None keeps all.
    """

    path: Path
    identity: Mapping[str, Any]
    every: int
    resume: Literal["auto", "never"]
    keep: int | None = 3

    @property
    def folder(self) -> Path:
        """The training's own folder, created by the first save."""
        return self.path.with_name(f"{self.path.name}-{hash_json(self.identity)[:16]}")

    @contextmanager
    def reserved(self, title: str) -> Iterator[None]:
        """Reserve the folder for this process.

        If another process trains the same, wait for it: its checkpoints are of use to this one.
        `title` is the training's name in messages.

        Raises:
            UserError: The file system refused to create the lock.
        """
        with lock(self.folder, title):
            old = self.path  # earlier commits' folders have no hash
            if old.exists() and not self.folder.exists() and _are_of(old, self.identity):
                old.rename(self.folder)
            if not self._records():
                self._log_other_trainings(title)
            yield
            _COMPLETED.add(self.folder)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then remove old ones, unless all are kept.

        Raises:
            UserError: The file system refused (disk full, permissions). Older checkpoints are
                intact.
        """
        file = self.folder / f"step-{checkpoint.step:09d}.safetensors"
        try:
            with atomic_write(file) as partial:
                save_file(checkpoint.tensors, partial)
                checksum = _sha256(partial)
            record = {"step": checkpoint.step, "sha256": checksum, "identity": self.identity}
            # It makes the checkpoint valid, so it comes last.
            with atomic_write(file.with_suffix(".json")) as partial:
                partial.write_text(json.dumps(record), "utf-8")
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"the checkpoint at step {checkpoint.step} was not saved in {self.folder}: "
                f"{error}; earlier ones are intact: fix the cause (free space, permissions) and "
                f"run {resume_command(self.resume)} to resume from them"
            ) from error
        if self.keep is None:
            return
        records = self._records()
        # Checkpoints of later steps are damaged; they must not displace those that are not.
        ahead = [record for record in records if record.stem > file.stem]
        for old in ahead + records[len(ahead) :][self.keep :]:
            _remove(old)

    def latest(self) -> Checkpoint | None:
        """Return the latest usable checkpoint of this training, or None; see `usable`."""
        return next(self.usable(), None)

    def usable(self) -> Iterator[Checkpoint]:
        """Yield the usable checkpoints of this training, the latest first.

        Damaged checkpoints are skipped, with a warning that says why. With `resume` = `never`, all
        checkpoints are removed.
        """
        records = self._records()
        if self.resume == "never":
            if records:
                _LOG.info("resume = never: the checkpoints in %s are not used", self.folder)
                for record in records:
                    _remove(record)
            return
        for record in records:
            try:
                yield self._load(record)
            except (OSError, ValueError, SafetensorError) as error:
                reason = " ".join(str(error).split())
                _LOG.warning("%s is not used: %s", record.with_suffix(".safetensors"), reason)

    def remove(self) -> None:
        """Remove the folder, unless a process is training there."""
        _remove_folder(self.folder)

    def _records(self) -> list[Path]:
        """Return the records, the latest first."""
        return sorted(_find_records(self.folder), reverse=True)

    def _log_other_trainings(self, title: str) -> None:
        """Log how this training differs from the latest other one that can resume."""
        records = [record for other in _find_folders(self.path) for record in _find_records(other)]
        if not records:
            return
        with suppress(OSError, ValueError):
            record = max(records, key=lambda path: path.stat().st_mtime)
            theirs = _Record.model_validate_json(record.read_bytes()).identity
            different = find_differences(theirs, _as_json(self.identity))
            text = "%s: starts from scratch; the checkpoints in %s have different %s"
            _LOG.info(text, title, record.parent, ", ".join(key for key, *_ in different))

    def _load(self, path: Path) -> Checkpoint:
        """Load the checkpoint of a record.

        Raises:
            OSError, ValueError, SafetensorError: It is damaged or can't be read.
        """
        file = path.with_suffix(".safetensors")
        record = _Record.model_validate_json(path.read_bytes())
        if path.stem != f"step-{record.step:09d}":
            raise ValueError(f"its record is of step {record.step}")
        if _sha256(file) != record.sha256:
            raise ValueError("its checksum does not match: the file is damaged")
        return Checkpoint(record.step, load_file(file))


def remove_completed(path: Path) -> None:
    """Remove the checkpoints at this path of trainings that this process has completed.

    Those of others are kept, because they may resume.
    """
    for folder in _COMPLETED.intersection(_find_folders(path)):
        _remove_folder(folder)
        _COMPLETED.remove(folder)


def remove_leftovers(path: Path, lineage: Mapping[str, Any]) -> None:
    """Remove the checkpoints at this path of trainings with this lineage, and empty folders."""
    for folder in _find_folders(path):
        if _are_of(folder, lineage):
            _remove_folder(folder)


def _find_folders(path: Path) -> list[Path]:
    """Return the folders of the trainings that have checkpoints at this path."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}-*"))


def _find_records(folder: Path) -> Iterator[Path]:
    return folder.glob("step-*.json")


def _remove_folder(folder: Path) -> None:
    """Remove a folder of checkpoints, unless a process is training there.

    If this process is killed meanwhile, a record or an empty folder is left.
    """
    with lock(folder) as reserved:
        if reserved:
            for file in folder.glob("*.safetensors"):  # the records, which name the training, later
                file.unlink()
            shutil.rmtree(folder, ignore_errors=True)


def _are_of(folder: Path, lineage: Mapping[str, Any]) -> bool:
    """Return whether a folder has only checkpoints of a training with this lineage, or nothing."""
    expected = _as_json(lineage)
    try:
        records = [_Record.model_validate_json(path.read_bytes()) for path in folder.glob("*.json")]
    except (OSError, ValueError):
        return False
    return all(expected.items() <= record.identity.items() for record in records)


class _Record(BaseModel):
    """The content of a checkpoint's JSON file."""

    model_config = ConfigDict(strict=True)

    step: NonNegativeInt
    sha256: str
    identity: dict[str, Any]


def _as_json(tree: Mapping[str, Any]) -> Any:
    """Return plain data as JSON gives it back."""
    return json.loads(json.dumps(tree))


def _remove(record: Path) -> None:
    record.unlink()  # first: a file without its record is never read
    record.with_suffix(".safetensors").unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
