"""What one training step computes, as Lightning modules: pretraining and finetuning."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from selfie_pipeline.config import FinetuneConfig, PretrainConfig, TrainingConfig, UserError
from selfie_pipeline.models.classifier import AttentionClassifier, Classifier
from selfie_pipeline.models.dropout import DropoutRng
from selfie_pipeline.models.patch_grid import patchify
from selfie_pipeline.models.selfie import Selfie, patch_accuracy, selfie_loss
from selfie_pipeline.training.checkpoints import Checkpoint
from selfie_pipeline.training.data.augmentation import normalise
from selfie_pipeline.training.data.batches import Batch, Images, patch_order
from selfie_pipeline.training.data.randomness import Purpose, generator
from selfie_pipeline.training.data.transfer import AsyncCopy, send
from selfie_pipeline.training.distributed.process_group import all_gather, all_reduce_mean
from selfie_pipeline.training.optimizer import learning_rate_factor

_SAMPLES_NAMED = 8


class NonFiniteLossError(UserError):  # it says what the loss is
    """A training's loss is infinite or not a number.

    Attributes:
        step: Steps done with it.
        loss: Of the first part of the batch where it was so.
        learning_rate: At this step.
        samples: Of the batch.
    """

    def __init__(self, step: int, loss: float, learning_rate: float, samples: list[int]) -> None:
        more = f" and {len(samples) - _SAMPLES_NAMED} more" if len(samples) > _SAMPLES_NAMED else ""
        super().__init__(
            f"the loss is {loss} at step {step}, learning rate {learning_rate:g}, samples "
            f"{', '.join(map(str, samples[:_SAMPLES_NAMED]))}{more}; the same command comes back "
            "to it from the last checkpoint: try a lower peak_learning_rate, or clip_norm"
        )
        self.step = step
        self.loss = loss
        self.learning_rate = learning_rate
        self.samples = samples


class HistoryRow(NamedTuple):
    """What is kept of a training: means over the steps since the row before.

    Attributes:
        step: Steps done.
        loss: Mean cross-entropy, nats.
        accuracy: Share picked or classified right, on the augmented training batches.
        learning_rate: At the last of these steps, of what is fresh.
    """

    step: int
    loss: float
    accuracy: float
    learning_rate: float


class Task(pl.LightningModule):
    """The part that pretraining and finetuning share: pixels to images, optimiser, history."""

    mean: Tensor
    std: Tensor
    optimizer: torch.optim.SGD

    def __init__(
        self,
        network: nn.Module,
        recipe: TrainingConfig,
        images: Images,
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.recipe = recipe
        self.data = images
        mean, std = images.grids.mean, images.grids.std
        self.register_buffer("mean", torch.from_numpy(mean), persistent=False)
        self.register_buffer("std", torch.from_numpy(std), persistent=False)
        self.steps_done = 0
        self.history: list[HistoryRow] = []
        self._since_row: list[Tensor] = []  # (loss, accuracy) of each part since the last row
        self._samples: list[Tensor] = []  # of each part of the present step
        self._unchecked: list[tuple[int, AsyncCopy, list[Tensor]]] = []  # step, losses, samples
        self._momentum: dict[str, Tensor] = {}

    @abstractmethod
    def score(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of a part of a batch, both scalars on the device."""

    def images(self, batch: Batch) -> Tensor:
        """The batch's windows: (B, C, H, W), float32, channels last."""
        windows = self.data.cut_out(batch.patches, batch.corners, batch.flips)
        return normalise(windows, self.mean, self.std)

    def noise(self, seed: int, batch: Batch) -> DropoutRng:
        """The random numbers of the batch's step, of which a part takes its own rows'."""
        random = generator(seed, Purpose.DROPOUT, batch.step, self.device)
        return DropoutRng(random, self.recipe.batch_size, batch.first_row)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """As Lightning calls it, once for each part of a batch."""
        loss, accuracy = self.score(batch)
        # Kept on the device: reading a number would make the processor wait for the step.
        self._since_row.append(torch.stack([loss.detach(), accuracy]))
        self._samples.append(batch.samples)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:  # noqa: ARG002
        """Clip the gradient; Lightning itself refuses to with a fused optimiser."""
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)

    def end_step(self, batch: Batch) -> None:
        """After a step's last part: count it, and every `log_every` steps write a row."""
        self.steps_done = batch.step + 1
        parts = len(self._samples)
        means = all_reduce_mean(torch.stack(self._since_row[-parts:]))  # (parts, 2)
        self._since_row[-parts:] = means.unbind()
        losses = means[:, 0]  # (parts,)
        self._unchecked.append((batch.step, AsyncCopy(losses), self._samples))
        self._samples = []
        # On a GPU a step late, so that it has work while we wait for the number.
        self._check_finite(unread=1 if losses.is_cuda else 0)
        if self.steps_done % self.recipe.log_every == 0 or self.steps_done == self.recipe.steps:
            loss, accuracy = torch.stack(self._since_row).double().mean(dim=0).tolist()
            rate = self.recipe.peak_learning_rate * learning_rate_factor(batch.step, self.recipe)
            self.history.append(HistoryRow(self.steps_done, loss, accuracy, rate))
            self._since_row.clear()

    def _check_finite(self, unread: int) -> None:
        """Stop where a loss is not finite; the last checkpoint is from before it.

        Args:
            unread: The newest steps that are left for later.

        Raises:
            NonFiniteLossError: The message names step, learning rate and samples.
        """
        while len(self._unchecked) > unread:
            step, fetched, samples = self._unchecked.pop(0)
            losses = fetched.read()  # (parts,)
            bad = losses[~losses.isfinite()]
            if not len(bad):
                continue
            rate = self.recipe.peak_learning_rate * learning_rate_factor(step, self.recipe)
            seen = all_gather(torch.cat(samples).tolist())
            raise NonFiniteLossError(
                step + 1, bad[0].item(), rate, [row for each in seen for row in each]
            )

    def checkpoint(self) -> Checkpoint:
        """The state after the last whole step.

        Raises:
            NonFiniteLossError: Its loss was not finite.
        """
        self._check_finite(unread=0)
        tensors = {
            f"network.{name}": tensor for name, tensor in self.network.state_dict().items()
        } | {
            f"momentum.{name}": self.optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in self.network.named_parameters()
        }
        tensors["history"] = torch.tensor(self.history, dtype=torch.float64)  # (rows, 4)
        if self._since_row:
            tensors["since_row"] = torch.stack(self._since_row)  # (parts, 2)
        plain = {
            name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()
        }
        return Checkpoint(self.steps_done, plain)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this very training."""
        network = _strip(checkpoint.tensors, "network.")
        self.network.load_state_dict(network, strict=True)
        self._momentum = _strip(checkpoint.tensors, "momentum.")
        self.steps_done = checkpoint.step
        self.history = [
            HistoryRow(int(step), *rest) for step, *rest in checkpoint.tensors["history"].tolist()
        ]
        self._since_row = list(checkpoint.tensors.get("since_row", ()))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The weights; a group may have a peak learning rate of its own."""
        return [{"params": list(self.network.parameters())}]

    def configure_optimizers(self) -> Any:
        """Nesterov momentum and L2 on every weight, as the paper; the rate changes every step."""
        self.optimizer = torch.optim.SGD(
            self.parameter_groups(),
            lr=self.recipe.peak_learning_rate,
            momentum=self.recipe.momentum,
            nesterov=self.recipe.momentum > 0,
            weight_decay=self.recipe.weight_decay,
            fused=True,
        )
        for name, parameter in self.network.named_parameters():
            if name in self._momentum:
                momentum = torch.empty_like(parameter).copy_(self._momentum[name])
                self.optimizer.state[parameter]["momentum_buffer"] = momentum
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]  # what LambdaLR goes on from
        factor = partial(learning_rate_factor, recipe=self.recipe)
        schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor, self.steps_done - 1)
        return {
            "optimizer": self.optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class PretrainingTask(Task):
    """Pick the masked patch among distractors from the same image."""

    network: Selfie
    recipe: PretrainConfig

    def score(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Selfie's loss, and the share of target positions whose patch was picked."""
        patches = patchify(self.images(batch), batch.patches.shape[-1])  # (B, N, C, P, P)
        order = patch_order(self.recipe.seed, batch.step, self.recipe.batch_size, patches.shape[1])
        own = send(order[batch.first_row :][: len(patches)], patches.device)  # (B, N)
        noise = self.noise(self.recipe.seed, batch)
        scores = self.network(patches, own, noise)  # (B, T, T)
        return selfie_loss(scores), patch_accuracy(scores)


class FinetuningTask(Task):
    """Classify whole images."""

    network: Classifier
    recipe: FinetuneConfig
    labels: Tensor

    def __init__(
        self,
        network: Classifier,
        recipe: FinetuneConfig,
        images: Images,
        labels: Tensor,
        *,
        seed: int,
        handed_over: Collection[str],
    ) -> None:
        """As `Task`, with more.

        Args:
            network: What is finetuned.
            recipe: Of the training.
            images: What to train on.
            labels: (M,), int64: the class of every stored sample.
            seed: Of the batches.
            handed_over: Names of the network's tensors that are not fresh.
        """
        super().__init__(network, recipe, images)
        self.seed = seed
        self.handed_over = frozenset(handed_over)
        self.register_buffer("labels", labels, persistent=False)

    def score(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy over the classes, and the share of images classified right."""
        labels = self.labels[batch.samples]  # (B,)
        logits = self._logits(batch).float()  # (B, classes)
        right = logits.argmax(dim=1) == labels  # (B,)
        return functional.cross_entropy(logits, labels), right.float().mean()

    def _logits(self, batch: Batch) -> Tensor:
        images = self.images(batch)  # (B, C, H, W)
        if isinstance(self.network, AttentionClassifier):
            logits: Tensor = self.network(images, self.noise(self.seed, batch))  # (B, classes)
        else:  # nothing drops in a ResNet
            logits = self.network(images)  # (B, classes)
        return logits

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is fresh, and what was handed over, which may learn more slowly."""
        named = dict(self.network.named_parameters())
        fresh = [named[name] for name in named if name not in self.handed_over]
        handed_over = [named[name] for name in named if name in self.handed_over]
        rate = self.recipe.peak_learning_rate * self.recipe.pretrained_rate
        return [{"params": fresh}, {"params": handed_over, "lr": rate}]


def _strip(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
