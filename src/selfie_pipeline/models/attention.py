"""The attention pooling network A (paper, "Attention Pooling")."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from selfie_pipeline.config import AttentionConfig
from selfie_pipeline.models.dropout import DropoutRng, dropout


class AttentionBlock(nn.Module):
    """Self-attention, then two linear layers with GELU between; each with a residual, then norm.

    It computes what `torch.nn.TransformerEncoderLayer` computes (post-norm, GELU), with tensors of
    the same names and shapes. It is written out because torch's drops units between the two linear
    layers, which the paper does not, and takes its random numbers from the global state.
    """

    def __init__(self, features: int, config: AttentionConfig) -> None:
        super().__init__()
        self.self_attn = _SelfAttention(features, config.heads, config.attention_dropout)
        self.linear1 = nn.Linear(features, config.intermediate)
        self.linear2 = nn.Linear(config.intermediate, features)
        self.norm1 = nn.LayerNorm(features)
        self.norm2 = nn.LayerNorm(features)
        self.rate = config.dropout

    def forward(
        self, vectors: Tensor, noise: DropoutRng | None, outputs: int | None = None
    ) -> Tensor:
        """Let the vectors look at each other.

        Args:
            vectors: (B, L, D).
            noise: Where units drop; none in evaluation.
            outputs: How many of the first vectors' outputs are wanted; None for all.

        Returns:
            (B, outputs, D).
        """
        wanted = vectors[:, :outputs]  # (B, outputs, D)
        attended = dropout(self.self_attn(wanted, vectors, noise), self.rate, noise)
        wanted = self.norm1(wanted + attended)
        projected = self.linear2(functional.gelu(self.linear1(wanted)))
        out: Tensor = self.norm2(wanted + dropout(projected, self.rate, noise))
        return out


class _SelfAttention(nn.Module):
    """Multi-head self-attention, with the tensors of `torch.nn.MultiheadAttention`."""

    def __init__(self, features: int, heads: int, rate: float) -> None:
        super().__init__()
        self.heads = heads
        self.rate = rate
        self.in_proj_weight = nn.Parameter(torch.empty(3 * features, features))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * features))
        self.out_proj = nn.Linear(features, features)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, wanted: Tensor, vectors: Tensor, noise: DropoutRng | None) -> Tensor:
        """What each wanted vector, (B, Q, D), sees in the vectors, (B, L, D): (B, Q, D)."""
        of_query, of_rest = self.in_proj_weight.tensor_split([vectors.shape[-1]])
        query_bias, rest_bias = self.in_proj_bias.tensor_split([vectors.shape[-1]])
        query = self._heads(functional.linear(wanted, of_query, query_bias))  # (B, heads, Q, d)
        both = functional.linear(vectors, of_rest, rest_bias)  # (B, L, 2D)
        key, value = (self._heads(part) for part in both.chunk(2, dim=-1))  # (B, heads, L, d)
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5  # (B, heads, Q, L)
        weights = dropout(scores.softmax(dim=-1), self.rate, noise)
        mixed = (weights @ value).transpose(1, 2).flatten(2)  # (B, Q, D)
        out: Tensor = self.out_proj(mixed)
        return out

    def _heads(self, vectors: Tensor) -> Tensor:
        """(B, L, D) to (B, heads, L, d)."""
        b, length, _ = vectors.shape
        return vectors.view(b, length, self.heads, -1).transpose(1, 2)


class AttentionPooling(nn.Module):
    """A: pools any number of vectors into one, by Transformer blocks and a learned u₀."""

    def __init__(self, features: int, config: AttentionConfig) -> None:
        super().__init__()
        self.u0 = nn.Parameter(torch.randn(features) * 0.02)
        blocks = [AttentionBlock(features, config) for _ in range(config.blocks)]
        # Out of the last norm, scores u · h would start with a deviation of about √D, far from
        # chance. So its weight starts small: the scores begin as those of scaled attention do.
        nn.init.constant_(blocks[-1].norm2.weight, features**-0.5)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, vectors: Tensor, noise: DropoutRng | None = None) -> Tensor:
        """Pool vectors.

        Args:
            vectors: (B, L, D), in any order.
            noise: Where units drop; none in evaluation.

        Returns:
            u, (B, D): the output at u₀. The outputs at the vectors are discarded.
        """
        u0 = self.u0.to(vectors.dtype).expand(vectors.shape[0], 1, -1)  # (B, 1, D)
        sequence = torch.cat([u0, vectors], dim=1)  # (B, 1 + L, D)
        *blocks, last = self.blocks
        for block in blocks:
            sequence = block(sequence, noise)  # (B, 1 + L, D)
        u: Tensor = last(sequence, noise, outputs=1)[:, 0]  # (B, D)
        return u
