"""The attention pooling network A (paper, "Attention Pooling")."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from selfie_pipeline.config import AttentionConfig
from selfie_pipeline.models.noise import Noise, dropout


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

    def forward(self, vectors: Tensor, noise: Noise | None) -> Tensor:
        """(B, L, D) to (B, L, D); units drop only where there is noise."""
        attended = dropout(self.self_attn(vectors, noise), self.rate, noise)
        vectors = self.norm1(vectors + attended)
        projected = self.linear2(functional.gelu(self.linear1(vectors)))
        out: Tensor = self.norm2(vectors + dropout(projected, self.rate, noise))
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

    def forward(self, vectors: Tensor, noise: Noise | None) -> Tensor:
        b, length, features = vectors.shape
        d = features // self.heads
        qkv = functional.linear(vectors, self.in_proj_weight, self.in_proj_bias)  # (B, L, 3D)
        qkv = qkv.view(b, length, 3, self.heads, d).permute(2, 0, 3, 1, 4)  # (3, B, heads, L, d)
        query, key, value = qkv.unbind(0)  # each (B, heads, L, d)
        scores = query @ key.transpose(-2, -1) * d**-0.5  # (B, heads, L, L)
        weights = dropout(scores.softmax(dim=-1), self.rate, noise)
        mixed = (weights @ value).transpose(1, 2).reshape(b, length, features)  # (B, L, D)
        out: Tensor = self.out_proj(mixed)
        return out


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

    def forward(self, vectors: Tensor, noise: Noise | None = None) -> Tensor:
        """Pool vectors.

        Args:
            vectors: (B, L, D), in any order.
            noise: Where units drop; none in evaluation.

        Returns:
            u, (B, D): the output at u₀. The outputs at the vectors are discarded.
        """
        u0 = self.u0.to(vectors.dtype).expand(vectors.shape[0], 1, -1)  # (B, 1, D)
        sequence = torch.cat([u0, vectors], dim=1)  # (B, 1 + L, D)
        for block in self.blocks:
            sequence = block(sequence, noise)
        return sequence[:, 0]  # (B, D)
