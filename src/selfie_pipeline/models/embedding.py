"""Embedding of images by P and A: one vector per image."""

from __future__ import annotations

from torch import Tensor, nn

from selfie_pipeline.models.patch_grid import patchify
from selfie_pipeline.models.selfie import Selfie


class ImageEmbedding(nn.Module):
    """P on every patch, as in pretraining, and A over all of them; nothing is masked."""

    def __init__(self, network: Selfie, patch_size: int) -> None:
        """Wrap a pretrained network, whose patches have sides of `patch_size` pixels."""
        super().__init__()
        self.network = network
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> Tensor:
        """Compute the vectors u of normalised images: (B, 3, H, W) to (B, D).

        Raises:
            ValueError: The patch size does not divide H and W.
        """
        vectors = self.network.embed(patchify(images, self.patch_size))  # (B, N, D)
        if self.network.encoder_positions:
            vectors = vectors + self.network.positions()  # (B, N, D)
        u: Tensor = self.network.pooling(vectors)  # (B, D)
        return u
