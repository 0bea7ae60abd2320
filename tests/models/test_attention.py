"""Tests of the attention pooling network."""

import pytest
import torch
from torch import nn

from selfie_pipeline.config import AttentionConfig
from selfie_pipeline.models.attention import AttentionBlock, AttentionPooling
from selfie_pipeline.models.dropout import DropoutRng


def make_config(heads=4, intermediate=40, blocks=3, dropout=0.1, attention_dropout=0.1):
    return AttentionConfig(
        blocks=blocks,
        heads=heads,
        intermediate=intermediate,
        dropout=dropout,
        attention_dropout=attention_dropout,
    )


def build_torch_layer(features, settings):
    return nn.TransformerEncoderLayer(
        features,
        settings.heads,
        settings.intermediate,
        activation="gelu",
        batch_first=True,
        norm_first=False,
        dtype=torch.float64,
    ).eval()


def randomise(module):
    """Change all parameters; the initial 0 and 1 of biases and norms would hide a mistake."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)


@pytest.mark.parametrize(
    ("features", "heads", "intermediate", "length"),
    [(32, 4, 40, 13), (48, 1, 16, 5), (24, 24, 96, 2), (64, 32, 40, 37)],
)
class TestTheBlockEqualsTorchs:
    @pytest.fixture
    def pair(self, features, heads, intermediate):
        torch.manual_seed(0)
        settings = make_config(heads, intermediate)
        ours = AttentionBlock(features, settings).double()
        theirs = build_torch_layer(features, settings)
        randomise(theirs)
        ours.load_state_dict(theirs.state_dict(), strict=True)
        return ours, theirs

    def test_tensors_load_strictly_in_both_directions(self, pair, length):  # noqa: ARG002
        ours, theirs = pair
        randomise(ours)
        theirs.load_state_dict(ours.state_dict(), strict=True)
        for name, tensor in ours.state_dict().items():
            assert torch.equal(theirs.state_dict()[name], tensor)

    def test_outputs_and_gradients(self, pair, features, length):
        vectors = torch.randn(3, length, features, dtype=torch.float64)
        weights = torch.randn_like(vectors)
        results = []
        for block, arguments in zip(pair, ((None,), ()), strict=True):
            inputs = vectors.clone().requires_grad_()
            out = block(inputs, *arguments)
            (out * weights).sum().backward()
            gradients = {name: p.grad for name, p in block.named_parameters()}
            results.append((out.detach(), inputs.grad, gradients))
        (out, grad_in, gradients), (out_torch, grad_in_torch, gradients_torch) = results
        torch.testing.assert_close(out, out_torch, rtol=0, atol=1e-10)
        torch.testing.assert_close(grad_in, grad_in_torch, rtol=1e-10, atol=1e-10)
        assert gradients.keys() == gradients_torch.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(
                gradient, gradients_torch[name], rtol=1e-10, atol=1e-10, msg=name
            )


def make_rng():
    return DropoutRng(0, batch_size=4)


@pytest.mark.parametrize(("dropout", "attention_dropout"), [(0.5, 0.0), (0.0, 0.5)])
def test_units_drop_only_with_random_numbers(dropout, attention_dropout):
    torch.manual_seed(0)
    block = AttentionBlock(16, make_config(dropout=dropout, attention_dropout=attention_dropout))
    vectors = torch.randn(4, 6, 16)
    expected = block(vectors, None)
    torch.testing.assert_close(block(vectors, None), expected)
    assert not torch.allclose(block(vectors, make_rng()), expected, atol=0.1)
    torch.testing.assert_close(block(vectors, make_rng()), block(vectors, make_rng()))


def test_random_numbers_have_no_effect_at_rate_zero():
    block = AttentionBlock(16, make_config(dropout=0.0, attention_dropout=0.0))
    vectors = torch.randn(4, 6, 16)
    torch.testing.assert_close(block(vectors, make_rng()), block(vectors, None))


@pytest.fixture
def pooling():
    torch.manual_seed(0)
    module = AttentionPooling(32, make_config()).double()
    randomise(module)
    return module


def test_pooling_is_the_blocks_output_at_u0_and_the_others_are_discarded(pooling):
    vectors = torch.randn(5, 11, 32, dtype=torch.float64)
    sequence = torch.cat([pooling.u0.expand(5, 1, 32), vectors], dim=1)
    for block in pooling.blocks:
        layer = build_torch_layer(32, make_config())
        layer.load_state_dict(block.state_dict(), strict=True)
        sequence = layer(sequence)
    u = pooling(vectors)
    assert u.shape == (5, 32)
    torch.testing.assert_close(u, sequence[:, 0], rtol=0, atol=1e-10)


def test_vectors_in_bf16_are_summed_in_fp32_as_those_with_positions_are():
    module = AttentionPooling(32, make_config())
    vectors = torch.randn(5, 11, 32).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        u = module(vectors)
        assert u.dtype == torch.float32
        torch.testing.assert_close(u, module(vectors.float()), rtol=0, atol=0)


def test_fault_u0_fixed_at_zeros():
    pooling = AttentionPooling(32, make_config())
    assert "u0" in dict(pooling.named_parameters())
    assert pooling.u0.abs().min() > 0
    vectors = torch.randn(5, 11, 32)
    before = pooling(vectors)
    (before * torch.randn(5, 32)).sum().backward()
    assert pooling.u0.grad.abs().min() > 0
    torch.optim.SGD([pooling.u0], lr=1.0).step()
    assert not torch.allclose(pooling(vectors), before)


def test_initial_values():
    torch.manual_seed(0)
    pooling = AttentionPooling(256, make_config())
    assert pooling.u0.std().item() == pytest.approx(0.02, rel=0.15)
    for block in pooling.blocks:
        attention = block.self_attn
        limit = (6 / (256 + 3 * 256)) ** 0.5  # Glorot and Bengio (2010), equation 16
        assert attention.in_proj_weight.abs().max().item() == pytest.approx(limit, rel=1e-3)
        assert not attention.in_proj_bias.any()
        assert not attention.out_proj.bias.any()
        assert (block.norm1.weight == 1).all()
    *others, last = pooling.blocks
    assert all((block.norm2.weight == 1).all() for block in others)
    assert last.norm2.weight.unique().tolist() == [256**-0.5]


def test_the_order_of_the_vectors_does_not_matter(pooling):
    vectors = torch.randn(3, 12, 32, dtype=torch.float64)
    shuffled = vectors[:, torch.randperm(12)]
    torch.testing.assert_close(pooling(shuffled), pooling(vectors), rtol=0, atol=1e-10)


def test_every_vector_affects_the_output(pooling):
    vectors = torch.randn(1, 12, 32, dtype=torch.float64, requires_grad=True)
    pooling(vectors).square().sum().backward()
    assert (vectors.grad.abs().sum(dim=-1) > 0).all()


def test_images_do_not_attend_to_each_other(pooling):
    vectors = torch.randn(3, 12, 32, dtype=torch.float64)
    alone = torch.cat([pooling(image[None]) for image in vectors])
    torch.testing.assert_close(pooling(vectors), alone, rtol=0, atol=1e-10)


def test_the_size_is_that_of_the_paper(paper_config):
    pooling = AttentionPooling(1024, paper_config.model.attention)
    assert len(pooling.blocks) == 3
    attention = 4 * (1024 * 1024 + 1024)
    linear = 1024 * 640 + 640 + 640 * 1024 + 1024
    norms = 2 * 2 * 1024
    blocks = sum(parameter.numel() for parameter in pooling.blocks.parameters())
    assert blocks == 3 * (attention + linear + norms)
    assert blocks / 1e6 == pytest.approx(16.54, abs=0.005)
    assert pooling.u0.numel() == 1024


@pytest.mark.parametrize("outputs", [1, 4])
def test_a_block_can_compute_only_the_first_outputs(outputs):
    torch.manual_seed(0)
    block = AttentionBlock(16, make_config()).double()
    vectors = torch.randn(4, 6, 16, dtype=torch.float64)
    complete = block(vectors, None)
    torch.testing.assert_close(block(vectors, None, outputs), complete[:, :outputs])
