"""Tests of the embedding of images."""

import pytest
import torch

from selfie_pipeline.models.embedding import ImageEmbedding
from selfie_pipeline.models.patch_grid import patchify
from selfie_pipeline.models.selfie import Selfie


@pytest.fixture
def make_network(make_config):
    def make(**changes):
        config = make_config({f"model.{key}": value for key, value in changes.items()})
        torch.manual_seed(0)
        return Selfie(config.model, config.patch).eval()

    return make


IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
@pytest.mark.parametrize("encoder_positions", [True, False])
def test_u_is_a_over_all_patches(make_network, encoder_positions):
    network = make_network(encoder_positions=encoder_positions)
    vectors = ImageEmbedding(network, 8)(IMAGES)
    patches = patchify(IMAGES, 8)
    for image, vector in zip(patches, vectors, strict=True):
        context = network.patch_network(image)[None]
        if encoder_positions:
            context = context + network.positions()
        torch.testing.assert_close(vector[None], network.pooling(context))


@torch.inference_mode()
def test_u_depends_on_every_patch(make_network):
    embed = ImageEmbedding(make_network(), 8)
    for position in range(16):
        changed = IMAGES.clone()
        row, column = divmod(position, 4)
        changed[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 1
        assert (embed(changed) - embed(IMAGES)).abs().max() > 1e-4
