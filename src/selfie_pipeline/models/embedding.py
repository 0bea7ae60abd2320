"""Embedding of images: one vector per image, from a pretrained network."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from selfie_pipeline.models.patch_grid import patchify
from selfie_pipeline.models.selfie import Selfie


class ImageEmbedding(nn.Module):
    """A pretrained network applied to complete images; nothing is masked."""

    def __init__(self, network: Selfie, layer: Literal["stage3", "u"], patch_size: int) -> None:
        """Wrap a network.

        Args:
            network: The pretrained network.
            layer: `stage3`: P on the complete image, as in finetuning. `u`: P on every patch, as in
                pretraining, and A over all of them; all patches are context.
            patch_size: Side of a patch in pixels, for `u`.
        """
        super().__init__()
        self.network = network
        self.layer = layer
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> Tensor:
        """Compute the vectors of normalised images: (B, 3, H, W) to (B, D)."""
        if self.layer == "stage3":
            pooled: Tensor = self.network.patch_network(images)  # (B, D)
            return pooled
        vectors = self.network.embed(patchify(images, self.patch_size))  # (B, N, D)
        if self.network.encoder_positions:
            vectors = vectors + self.network.positions()  # (B, N, D)
        u: Tensor = self.network.pooling(vectors)  # (B, D)
        return u
