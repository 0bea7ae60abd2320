"""The attention pooling network A (paper, "Attention Pooling")."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from selfie_pipeline.config import AttentionConfig
from selfie_pipeline.models.dropout import DropoutRng, dropout


class AttentionBlock(nn.Module):
    """Self-attention, then two linear layers with GELU between; each with a residual, then norm.

    It computes the same as `torch.nn.TransformerEncoderLayer` (post-norm, GELU), with tensors of
    the same names and shapes. That layer is not used because it also drops units between the two
    linear layers, which the paper does not, and takes its random numbers from the global state.
    """

    def __init__(self, features: int, config: AttentionConfig) -> None:
        super().__init__()
        self.self_attn = _SelfAttention(features, config.heads, config.attention_dropout)
        self.linear1 = nn.Linear(features, config.intermediate)
        self.linear2 = nn.Linear(config.intermediate, features)
        self.norm1 = nn.LayerNorm(features)
        self.norm2 = nn.LayerNorm(features)
        self.dropout_rate = config.dropout

    def forward(
        self, vectors: Tensor, rng: DropoutRng | None, num_outputs: int | None = None
    ) -> Tensor:
        """Let the vectors attend to each other.

        Args:
            vectors: (B, L, D).
            rng: Random numbers of the dropout; None in evaluation.
            num_outputs: Number of outputs to compute, those of the first vectors; None for all.

        Returns:
            (B, num_outputs, D).
        """
        first = vectors[:, :num_outputs]  # (B, num_outputs, D)
        attended = dropout(self.self_attn(first, vectors, rng), self.dropout_rate, rng)
        first = self.norm1(first + attended)
        projected = self.linear2(functional.gelu(self.linear1(first)))
        out: Tensor = self.norm2(first + dropout(projected, self.dropout_rate, rng))
        return out


class _SelfAttention(nn.MultiheadAttention):
    """torch's multi-head self-attention, but for the source of the dropout's random numbers."""

    def forward(  # type: ignore[override]
        self, queries: Tensor, vectors: Tensor, rng: DropoutRng | None
    ) -> Tensor:
        """Attend from the queries, (B, Q, D), to the vectors, (B, L, D): (B, Q, D)."""
        query_weight, key_value_weight = self.in_proj_weight.tensor_split([self.embed_dim])
        query_bias, key_value_bias = self.in_proj_bias.tensor_split([self.embed_dim])
        projected = functional.linear(queries, query_weight, query_bias)  # (B, Q, D)
        query = self._split_heads(projected)  # (B, heads, Q, d)
        key_value = functional.linear(vectors, key_value_weight, key_value_bias)  # (B, L, 2D)
        key, value = map(self._split_heads, key_value.chunk(2, dim=-1))  # (B, heads, L, d)
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5  # (B, heads, Q, L)
        weights = dropout(scores.softmax(dim=-1), self.dropout, rng)
        mixed = (weights @ value).transpose(1, 2).flatten(2)  # (B, Q, D)
        out: Tensor = self.out_proj(mixed)
        return out

    def _split_heads(self, vectors: Tensor) -> Tensor:
        """Split the features among the heads: (B, L, D) to (B, heads, L, d)."""
        b, length, _ = vectors.shape
        return vectors.view(b, length, self.num_heads, -1).transpose(1, 2)  # (B, heads, L, d)


class AttentionPooling(nn.Module):
    """A: pools any number of vectors into one, by Transformer blocks and a learned u₀."""

    def __init__(self, features: int, config: AttentionConfig) -> None:
        super().__init__()
        self.u0 = nn.Parameter(torch.randn(features) * 0.02)
        blocks = [AttentionBlock(features, config) for _ in range(config.blocks)]
        # After the last norm, scores u · h would initially have a standard deviation of about √D,
        # far from chance. With a small weight they start like those of scaled attention.
        nn.init.constant_(blocks[-1].norm2.weight, features**-0.5)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, vectors: Tensor, rng: DropoutRng | None = None) -> Tensor:
        """Pool vectors.

        Args:
            vectors: (B, L, D), in any order.
            rng: Random numbers of the dropout; None in evaluation.

        Returns:
            u, (B, D): the output at u₀. The outputs at the vectors are discarded.
        """
        u0 = self.u0.expand(vectors.shape[0], 1, -1)  # (B, 1, D)
        sequence = torch.cat([u0, vectors], dim=1)  # (B, 1 + L, D), in fp32 if one of them is
        *blocks, last = self.blocks
        for block in blocks:
            sequence = block(sequence, rng)  # (B, 1 + L, D)
        u: Tensor = last(sequence, rng, num_outputs=1)[:, 0]  # (B, D)
        return u
