"""The state of a training between two steps: weights, momentum, step and history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from selfie_pipeline.config import UserError
from selfie_pipeline.printable import list_first
from selfie_pipeline.training.checkpoints import Checkpoint
from selfie_pipeline.training.cuda import AsyncCopy
from selfie_pipeline.training.distributed.process_group import all_gather, all_reduce_mean
from selfie_pipeline.training.optimizer import build_optimizer, learning_rate_factor
from selfie_pipeline.training.tasks import Task
from selfie_pipeline.weights import copy_to_cpu

_SAMPLES_NAMED = 8


class NonFiniteLossError(UserError):
    """A training's loss is infinite or not a number."""


class HistoryRow(NamedTuple):
    """A row of the training history: means over the steps since the row before.

    Attributes:
        step: Steps completed.
        loss: Mean cross-entropy, nats.
        accuracy: Share of correct answers on the augmented training batches.
        learning_rate: Learning rate of the last of these steps, of freshly initialised weights.
    """

    step: int
    loss: float
    accuracy: float
    learning_rate: float


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training.

    Attributes:
        tensors: The network's weights and statistics, by name, on the CPU.
        history: One row every `log_every` steps.
        measured: What callbacks measured on the way, by name.
    """

    tensors: dict[str, Tensor]
    history: list[HistoryRow]
    measured: dict[str, float]


class TrainingState:
    """The network, optimiser, step and history of a training.

    Attributes:
        network: The network, on the device.
        recipe: Parameters of the training.
        optimizer: The optimiser of the network's weights.
        step: Steps completed.
        history: Rows so far.
        measured: What callbacks measured on the way, by name; it is part of the checkpoints.
    """

    def __init__(self, task: Task) -> None:
        self.network = task.network
        self.recipe = task.recipe
        self.optimizer = build_optimizer(task.parameter_groups(), task.recipe)
        self.step = 0
        self.history: list[HistoryRow] = []
        self.measured: dict[str, float] = {}
        self._since_row: list[Tensor] = []  # (loss, accuracy) of each micro-batch
        self._samples: list[Tensor] = []  # of each micro-batch of the present step
        self._unchecked: list[tuple[int, AsyncCopy, list[Tensor]]] = []  # step, losses, samples

    def record(self, loss: Tensor, accuracy: Tensor, samples: Tensor) -> None:
        """Record a micro-batch, without waiting for the device."""
        self._since_row.append(torch.stack([loss.detach(), accuracy]))  # (2,)
        self._samples.append(samples)

    def end_step(self) -> None:
        """Count a step after its last micro-batch; add a row to the history if one is due.

        Raises:
            NonFiniteLossError: A loss is not finite.
        """
        self.step += 1
        parts = len(self._samples)
        means = all_reduce_mean(torch.stack(self._since_row[-parts:]))  # (parts, 2)
        self._since_row[-parts:] = means.unbind()
        losses = means[:, 0]  # (parts,)
        self._unchecked.append((self.step, AsyncCopy(losses), self._samples))
        self._samples = []
        # On a GPU one step late, so that the device has work while the host waits for the number.
        self._check_finite(lag=1 if losses.is_cuda else 0)
        if self.step % self.recipe.log_every == 0 or self.step == self.recipe.steps:
            loss, accuracy = torch.stack(self._since_row).double().mean(dim=0).tolist()
            self.history.append(HistoryRow(self.step, loss, accuracy, self._rate(self.step)))
            self._since_row.clear()

    def checkpoint(self) -> Checkpoint:
        """Copy the state to the host.

        Raises:
            NonFiniteLossError: The loss of the last step is not finite.
        """
        self._check_finite(lag=0)
        tensors = {
            f"network.{name}": tensor for name, tensor in self.network.state_dict().items()
        } | {
            f"momentum.{name}": self.optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in self.network.named_parameters()
            if self.recipe.momentum  # else there are none
        }
        for name, value in self.measured.items():
            tensors[f"measured.{name}"] = torch.tensor(value, dtype=torch.float64)
        tensors["history"] = torch.tensor(self.history, dtype=torch.float64)  # (rows, 4)
        if self._since_row:
            tensors["since_row"] = torch.stack(self._since_row)  # (parts, 2)
        return Checkpoint(self.step, copy_to_cpu(tensors))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up the state of a checkpoint of this very training."""
        tensors = checkpoint.tensors
        self.network.load_state_dict(_with_prefix(tensors, "network."), strict=True)
        momentum = _with_prefix(tensors, "momentum.")
        for name, parameter in self.network.named_parameters():
            if self.recipe.momentum:
                buffer = torch.empty_like(parameter).copy_(momentum[name])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        self.step = checkpoint.step
        self.history = [HistoryRow(int(step), *rest) for step, *rest in tensors["history"].tolist()]
        measured = _with_prefix(tensors, "measured.")
        self.measured = {name: value.item() for name, value in measured.items()}
        device = next(self.network.parameters()).device
        self._since_row = list(tensors.get("since_row", torch.empty(0)).to(device))

    def result(self) -> TrainingResult:
        """Return the weights and the history so far."""
        weights = self.network.state_dict()
        return TrainingResult(
            {name: tensor.detach().cpu() for name, tensor in weights.items()},
            self.history,
            dict(sorted(self.measured.items())),  # as they come out of a checkpoint
        )

    def _check_finite(self, lag: int) -> None:
        """Check the losses of all steps but the last `lag` ones.

        Raises:
            NonFiniteLossError: One is not finite; the last checkpoint is from before it.
        """
        while len(self._unchecked) > lag:
            step, copy, samples = self._unchecked.pop(0)
            losses = copy.read()  # (parts,)
            bad = losses[~losses.isfinite()]
            if len(bad):
                seen = all_gather(torch.cat(samples).tolist())
                names = [str(sample) for of_worker in seen for sample in of_worker]
                raise NonFiniteLossError(
                    f"the loss is {bad[0].item()} at step {step}, learning rate "
                    f"{self._rate(step):g}, samples {list_first(names, _SAMPLES_NAMED)}; the same "
                    "command would resume from the last checkpoint and fail again: try a lower "
                    "peak_learning_rate, or clip_norm"
                )

    def _rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1, of freshly initialised weights."""
        return self.recipe.peak_learning_rate * learning_rate_factor(step - 1, self.recipe)


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with the prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
