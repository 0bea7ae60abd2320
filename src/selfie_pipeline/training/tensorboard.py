"""A training's history as curves for TensorBoard, while it goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from selfie_pipeline.config import UserError
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.tasks import Task


def tensorboard_writer(checkpoints: Checkpoints) -> TensorBoardWriter:
    """The curves of the training whose checkpoints these are: one folder for each training.

    So a training that is gone on with goes on with its curves, and one with other parameters has
    others, which TensorBoard shows beside them.
    """
    identity = json.dumps(checkpoints.identity, sort_keys=True)
    name = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return TensorBoardWriter(checkpoints.folder.parent / "tensorboard" / name)


class TensorBoardWriter:
    """Writes the rows of the history that are new after a step; a `StepCallback` of `fit`.

    An event file can't be taken back to a checkpoint, so the first step of a process writes it
    anew, from the history that the checkpoint holds: no point is there twice, and none is missing.
    """

    def __init__(self, folder: Path) -> None:
        """Name the folder; nothing is written.

        Args:
            folder: Of this training alone; what lies there is replaced.

        Raises:
            UserError: TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  # an extra
        except ImportError:
            raise UserError(
                "tracking.tensorboard = true, but TensorBoard is not installed; use "
                "tracking.tensorboard=false, or install the extra: pip install --constraint "
                "constraints.txt --editable '.[tensorboard]'"
            ) from None
        self.folder = folder
        self._open = SummaryWriter
        self._writer: Any = None
        self._written = 0

    def __call__(self, task: Task, done: int) -> None:
        """Write what is new."""
        if self._writer is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._writer = self._open(str(self.folder))
        rows = task.history[self._written :]
        for row in rows:
            for name, value in row._asdict().items():
                if name != "step":
                    self._writer.add_scalar(name, value, row.step)
        self._written += len(rows)
        if rows:
            self._writer.flush()
        if done == task.recipe.steps:
            self._writer.close()
