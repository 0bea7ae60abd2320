"""Writes the training history as curves for TensorBoard, while the training runs."""

from __future__ import annotations

import shutil
from typing import Any

from selfie_pipeline.extras import require_extra
from selfie_pipeline.provenance import hash_json
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.state import TrainingState


class TensorBoardWriter:
    """Writes the history as curves for TensorBoard; a `StepCallback`.

    A resumed training continues its curves; one with other parameters has another folder, which
    TensorBoard shows beside it. An event file can't be taken back to a checkpoint. So the first
    step of a process writes it again, from the history that the checkpoint holds: no point is
    duplicated, and none is missing.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        """Choose a folder beside the training's checkpoints; nothing is written yet.

        Raises:
            UserError: TensorBoard is not installed.
        """
        require_extra("tensorboard", "tracking.tensorboard = true needs TensorBoard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  # an extra

        name = hash_json(checkpoints.identity)[:8]
        self.folder = checkpoints.folder.parent / "tensorboard" / name
        self._open = SummaryWriter
        self._writer: Any = None
        self._written = 0

    def __call__(self, state: TrainingState) -> None:
        """Write the rows of the history that are new."""
        if self._writer is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._writer = self._open(str(self.folder))
        rows = state.history[self._written :]
        for row in rows:
            for name, value in row._asdict().items():
                if name != "step":
                    self._writer.add_scalar(name, value, row.step)
        self._written += len(rows)
        if rows:
            self._writer.flush()
        if state.step == state.recipe.steps:
            self._writer.close()
