"""Selfie's pretraining network, which identifies masked patches among distractors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from selfie_pipeline.config import ModelConfig, PatchConfig
from selfie_pipeline.models.attention import AttentionPooling
from selfie_pipeline.models.backbone import PatchNetwork
from selfie_pipeline.models.dropout import DropoutRng
from selfie_pipeline.models.positions import build_positions
from selfie_pipeline.provenance import readable_provenance


class Selfie(nn.Module):
    """P, A and the positions, trained together (paper, "Method")."""

    def __init__(self, model: ModelConfig, patch: PatchConfig) -> None:
        super().__init__()
        self.targets = patch.targets
        self.encoder_positions = model.encoder_positions
        self.patch_network = PatchNetwork(model)
        self.pooling = AttentionPooling(model.features, model.attention)
        self.positions = build_positions(model, patch.grid_size)

    def forward(self, patches: Tensor, order: Tensor, rng: DropoutRng | None = None) -> Tensor:
        """Score every target patch for every target position.

        Args:
            patches: (B, N, C, P, P), float: all patches of each image, in the grid's order.
            order: (B, N), int64: a permutation of the positions for each image. The first K are the
                context, the last T the targets.
            rng: Random numbers of the dropout in A; None in evaluation.

        Returns:
            (B, T, T), float32: the dot product of the query at target position i with the vector
            of target patch j. The correct patch of row i is in column i.
        """
        vectors = self.embed(patches)  # (B, N, D)
        vectors = reorder(vectors, order)  # (B, N, D)
        context = vectors[:, : -self.targets]  # (B, K, D)
        targets = vectors[:, -self.targets :]  # (B, T, D)
        queries = self.query(context, order, rng)  # (B, T, D)
        with torch.autocast(queries.device.type, enabled=False):  # bf16 scores would be coarse
            scores: Tensor = queries.float() @ targets.float().transpose(1, 2)  # (B, T, T)
        return scores

    def embed(self, patches: Tensor) -> Tensor:
        """Apply P to all patches of all images as one batch: (B, N, C, P, P) to (B, N, D)."""
        b, n = patches.shape[:2]
        flat = patches.flatten(0, 1)  # (B·N, C, P, P)
        flat = flat.contiguous(memory_format=torch.channels_last)
        vectors: Tensor = self.patch_network(flat)  # (B·N, D)
        return vectors.view(b, n, -1)  # (B, N, D)

    def query(self, context: Tensor, order: Tensor, rng: DropoutRng | None = None) -> Tensor:
        """Compute the decoder's queries v = u + position, which do not depend on target patches.

        Args:
            context: (B, K, D): the vectors of the context patches.
            order: (B, N): the positions of the context, then those of the targets.
            rng: Random numbers of the dropout in A; None in evaluation.

        Returns:
            (B, T, D): v for each target position.
        """
        positions = reorder(self.positions().expand(len(order), -1, -1), order)  # (B, N, D)
        if self.encoder_positions:
            context = context + positions[:, : -self.targets]  # (B, K, D)
        u: Tensor = self.pooling(context, rng)  # (B, D)
        return u[:, None] + positions[:, -self.targets :]  # (B, T, D)


class _Reorder(torch.autograd.Function):
    """Selection of rows by permutations, whose gradient is a selection too.

    That of `index_select` adds to memory atomically on a GPU: slowly, and in no certain order.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return _select(vectors, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (grad,) = gradients  # (B, N, D)
        (order,) = ctx.saved_tensors
        return _select(grad, order.argsort(dim=1)), None


def _select(vectors: Tensor, order: Tensor) -> Tensor:
    """Select entire rows, (B, N, D) by (B, N); on a CPU `gather` is ten times slower."""
    b, n, _ = vectors.shape
    first = torch.arange(0, b * n, n, device=order.device)  # (B,)
    rows = (order + first[:, None]).flatten()  # (B·N,)
    return vectors.flatten(0, 1).index_select(0, rows).view(vectors.shape)  # (B, N, D)


def restore_encoder(tensors: Mapping[str, Tensor], provenance: Mapping[str, Any]) -> Selfie:
    """Build the network of an encoder's tensors, with the configuration it was pretrained with.

    The tensors are named as in the network's `state_dict`.

    Raises:
        UserError: The provenance does not describe the tensors, because another version of this
            project made it.
    """
    with readable_provenance("encoder", "network"):
        settings = provenance["configuration"]
        network = Selfie(
            ModelConfig.model_validate(settings["model"]),
            PatchConfig.model_validate(settings["patch"]),
        )
        network.load_state_dict(tensors, strict=True)
    return network


def reorder(vectors: Tensor, order: Tensor) -> Tensor:
    """Reorder the vectors of each image: (B, N, D) by permutations (B, N), to (B, N, D)."""
    out: Tensor = _Reorder.apply(vectors, order)
    return out


def selfie_loss(scores: Tensor) -> Tensor:
    """Compute the mean cross-entropy of the queries, each over the targets of its image.

    Args:
        scores: (B, T, T), float32, logits; the correct patch of row i is in column i.

    Returns:
        A scalar; ln T if all scores are equal.
    """
    flat, columns = scores.flatten(0, 1), _correct_columns(scores).flatten()  # (B·T, T), (B·T,)
    return functional.cross_entropy(flat, columns)


def patch_accuracy(scores: Tensor) -> Tensor:
    """Compute the share of queries whose correct patch scores highest: (B, T, T) to a scalar."""
    return (scores.argmax(dim=-1) == _correct_columns(scores)).float().mean()


def _correct_columns(scores: Tensor) -> Tensor:
    """Return the column of the correct patch of each row: (B, T, T) to (B, T), int64."""
    b, targets, _ = scores.shape
    return torch.arange(targets, device=scores.device).expand(b, targets)  # (B, T)
