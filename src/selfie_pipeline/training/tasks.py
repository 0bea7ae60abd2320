"""The losses of pretraining and finetuning: from a micro-batch of stored pixels to a scalar."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from selfie_pipeline.config import FinetuneConfig, PretrainConfig, TrainingConfig
from selfie_pipeline.models.classifier import AttentionClassifier, Classifier
from selfie_pipeline.models.dropout import DropoutRng
from selfie_pipeline.models.selfie import Selfie, patch_accuracy, selfie_loss
from selfie_pipeline.training.data.augmentation import normalise
from selfie_pipeline.training.data.batches import Batch, WindowReader
from selfie_pipeline.training.data.randomness import RandomStream, fold_in


class Task(nn.Module):
    """A network and its loss. The network alone is what a training results in."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, recipe: TrainingConfig, images: WindowReader) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.recipe = recipe
        self.images = images
        self.register_buffer("mean", torch.from_numpy(images.grids.mean), persistent=False)
        self.register_buffer("std", torch.from_numpy(images.grids.std), persistent=False)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the weights to train; a group may have a peak learning rate of its own, `lr`."""
        return [{"params": list(self.network.parameters())}]

    def dropout_rng(self, seed: int, batch: Batch) -> DropoutRng:
        """Return the random numbers of a batch's step, of which it uses those of its own rows."""
        step_seed = fold_in(seed, RandomStream.DROPOUT, batch.step)
        return DropoutRng(step_seed, self.recipe.batch_size, batch.first_row, self.mean.device)


class PretrainingTask(Task):
    """Selfie's pretext task: identify the masked patch among distractors of the same image."""

    network: Selfie
    recipe: PretrainConfig

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Compute Selfie's loss, and the share of targets that were identified; both scalars."""
        pixels = self.images.read_augmented(batch, self.images.patch.patch_size)  # (B, N, C, P, P)
        patches = normalise(pixels, self.mean, self.std)  # (B, N, C, P, P)
        rng = self.dropout_rng(self.recipe.seed, batch)
        scores = self.network(patches, batch.order, rng)  # (B, T, T)
        return selfie_loss(scores), patch_accuracy(scores)


class FinetuningTask(Task):
    """Classification of images."""

    network: Classifier
    recipe: FinetuneConfig
    labels: Tensor

    def __init__(
        self,
        network: Classifier,
        recipe: FinetuneConfig,
        images: WindowReader,
        labels: Tensor,
        *,
        seed: int,
        pretrained: Collection[str] = (),
    ) -> None:
        """Prepare a finetuning.

        Args:
            network: The classifier to train.
            recipe: Parameters of the training.
            images: The images to train on.
            labels: (M,), int64: the class of each sample by its row in the store; -1 for those that
                are not trained on.
            seed: Seed of the batches and of dropout.
            pretrained: Names of the network's tensors that are pretrained.
        """
        super().__init__(network, recipe, images)
        self.seed = seed
        self.pretrained = frozenset(pretrained)
        self.register_buffer("labels", labels, persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Compute the cross-entropy over the classes, and the accuracy; both scalars."""
        size = self.images.patch.image_size
        windows = self.images.read_augmented(batch, size)[:, 0]  # (B, C, H, W)
        images = normalise(windows, self.mean, self.std)  # (B, C, H, W)
        if isinstance(self.network, AttentionClassifier):
            logits = self.network(images, self.dropout_rng(self.seed, batch))  # (B, classes)
        else:  # a ResNet has no dropout
            logits = self.network(images)  # (B, classes)
        logits, labels = logits.float(), self.labels[batch.samples]  # (B, classes), (B,)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        return functional.cross_entropy(logits, labels), accuracy

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the freshly initialised weights, and the pretrained ones with their own rate."""
        named = dict(self.network.named_parameters())
        fresh = [named[name] for name in named if name not in self.pretrained]
        pretrained = [named[name] for name in named if name in self.pretrained]
        rate = self.recipe.peak_learning_rate * self.recipe.pretrained_rate
        return [{"params": fresh}, {"params": pretrained, "lr": rate}]
