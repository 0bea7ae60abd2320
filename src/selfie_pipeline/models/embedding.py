"""One vector of a whole image, from what was pretrained."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from selfie_pipeline.models.patch_grid import patchify
from selfie_pipeline.models.selfie import Selfie


class ImageEmbedding(nn.Module):
    """A pretrained network that sees whole images; nothing is masked."""

    def __init__(self, network: Selfie, layer: Literal["stage3", "u"], patch_size: int) -> None:
        """Take a network's tensors.

        Args:
            network: What was pretrained.
            layer: `stage3`: P on the whole image, as finetuning uses it. `u`: P on every patch, as
                in pretraining, and A over all of them: all are context.
            patch_size: Side of a patch, pixels; for `u`.
        """
        super().__init__()
        self.network = network
        self.layer = layer
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> Tensor:
        """Vectors of images: (B, 3, H, W), normalised, to (B, D)."""
        if self.layer == "stage3":
            pooled: Tensor = self.network.patch_network(images)  # (B, D)
            return pooled
        vectors = self.network.embed(patchify(images, self.patch_size))  # (B, N, D)
        if self.network.encoder_positions:
            vectors = vectors + self.network.positions()  # (B, N, D)
        u: Tensor = self.network.pooling(vectors)  # (B, D)
        return u
