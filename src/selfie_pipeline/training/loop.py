"""The loop around the steps: Lightning's, with this project's precision and progress."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass

import lightning.pytorch as pl
from torch import Tensor

from selfie_pipeline.training.batches import Batches
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.progress import Progress
from selfie_pipeline.training.tasks import HistoryRow, Task


@dataclass(frozen=True)
class Trained:
    """What a training leaves.

    Attributes:
        tensors: The network's weights and statistics, by name, on the CPU.
        history: One row every `log_every` steps.
    """

    tensors: dict[str, Tensor]
    history: list[HistoryRow]


def fit(task: Task, batches: Batches, device: Device, title: str) -> Trained:
    """Train a task's network on all the batches.

    Args:
        task: What a step computes, and its fresh or handed-over network.
        batches: All that is left of the training.
        device: Where and in which precision.
        title: What progress calls it.

    Returns:
        The weights after the last step, and the history.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=device.precision,  # type: ignore[arg-type]  # a literal there
        max_epochs=1,  # of the batches, which know the data's own epochs
        accumulate_grad_batches=task.recipe.accumulate,
        callbacks=[Progress(title, batches.first_step)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        # The batches read ahead in a thread of their own; worker processes would not help.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        trainer.fit(task, train_dataloaders=batches)
    tensors = {name: tensor.detach().cpu() for name, tensor in task.network.state_dict().items()}
    return Trained(tensors, task.history)
