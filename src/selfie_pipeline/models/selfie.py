"""Selfie's pretraining network: pick the masked patch among distractors from the same image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from selfie_pipeline.config import ModelConfig, PatchConfig
from selfie_pipeline.models.attention import AttentionPooling
from selfie_pipeline.models.backbone import PatchNetwork
from selfie_pipeline.models.dropout import DropoutRng
from selfie_pipeline.models.positions import build_positions


class Selfie(nn.Module):
    """P, A and the positions, trained together (paper, "Method")."""

    def __init__(self, model: ModelConfig, patch: PatchConfig) -> None:
        super().__init__()
        self.targets = patch.targets
        self.encoder_positions = model.encoder_positions
        self.patch_network = PatchNetwork(model)
        self.pooling = AttentionPooling(model.features, model.attention)
        self.positions = build_positions(model, patch.grid_size)

    def forward(self, patches: Tensor, order: Tensor, noise: DropoutRng | None = None) -> Tensor:
        """Score every target patch for every target position.

        Args:
            patches: (B, N, C, P, P), float: all patches of each image, in the grid's order.
            order: (B, N), int64: for each image a permutation of its places. The first K are the
                context, the last T the targets.
            noise: Where units drop in A; none in evaluation.

        Returns:
            (B, T, T), float32: the dot product of v at target i with the vector h of target
            patch j. The true patch of row i is in column i.
        """
        vectors = self.embed(patches)  # (B, N, D)
        vectors = vectors.gather(1, order[..., None].expand_as(vectors))  # (B, N, D)
        context, targets = vectors[:, : -self.targets], vectors[:, -self.targets :]
        queries = self.query(context, order, noise)  # (B, T, D)
        with torch.autocast(queries.device.type, enabled=False):  # scores of bf16 would be coarse
            scores: Tensor = queries.float() @ targets.float().transpose(1, 2)  # (B, T, T)
        return scores

    def embed(self, patches: Tensor) -> Tensor:
        """P on every patch of every image as one batch: (B, N, C, P, P) to (B, N, D)."""
        b, n = patches.shape[:2]
        flat = patches.flatten(0, 1)  # (B·N, C, P, P)
        flat = flat.contiguous(memory_format=torch.channels_last)
        vectors: Tensor = self.patch_network(flat)  # (B·N, D)
        return vectors.view(b, n, -1)  # (B, N, D)

    def query(self, context: Tensor, order: Tensor, noise: DropoutRng | None = None) -> Tensor:
        """The decoder's queries v = u + position; nothing of a target patch enters them.

        Args:
            context: (B, K, D): the vectors of the context patches.
            order: (B, N): their places first, then the targets' places.
            noise: Where units drop in A.

        Returns:
            (B, T, D): v for each target position.
        """
        positions = functional.embedding(order, self.positions())  # (B, N, D)
        if self.encoder_positions:
            context = context + positions[:, : -self.targets]  # (B, K, D)
        u: Tensor = self.pooling(context, noise)  # (B, D)
        return u[:, None] + positions[:, -self.targets :]  # (B, T, D)


def selfie_loss(scores: Tensor) -> Tensor:
    """Cross-entropy of each query over its image's targets, averaged over queries and images.

    Args:
        scores: (B, T, T), float32, raw: not a softmax; the true patch of row i is in column i.

    Returns:
        A scalar; ln T where the scores say nothing.
    """
    return functional.cross_entropy(scores.flatten(0, 1), _true_columns(scores).flatten())


def patch_accuracy(scores: Tensor) -> Tensor:
    """Share of the queries whose true patch has the highest score: (B, T, T) to a scalar."""
    return (scores.argmax(dim=-1) == _true_columns(scores)).float().mean()


def _true_columns(scores: Tensor) -> Tensor:
    """(B, T), int64."""
    b, targets, _ = scores.shape
    return torch.arange(targets, device=scores.device).expand(b, targets)  # (B, T)
