"""Tests of the classifiers and of loading pretrained tensors into them."""

import pytest
import torch
from torch.nn import functional

from selfie_pipeline.config import UserError
from selfie_pipeline.models.classifier import (
    build_classifier,
    num_classes,
    restore_classifier,
)
from selfie_pipeline.models.dropout import DropoutRng
from selfie_pipeline.provenance import dump_configuration

ARCHITECTURES = ["resnet", "resnet36_attention"]


def evaluation_mode(network):
    """Return the network in evaluation mode, with statistics that are not the initial ones."""
    torch.manual_seed(3)
    network.train()(torch.rand(4, 3, 32, 32) * 3)
    return network.eval()


@pytest.mark.parametrize("encoder_positions", [True, False])
@pytest.mark.parametrize("positions", ["table", "row_column"])
def test_a_hybrid_pools_the_mean_of_each_patchs_part_of_the_feature_map(
    make_config, positions, encoder_positions
):
    config = make_config(
        {"model.positions": positions, "model.encoder_positions": encoder_positions}
    )
    network = build_classifier(config.model, "resnet36_attention", config.patch, 5)
    network = evaluation_mode(network)
    images = torch.rand(3, 3, 32, 32)
    maps = network.patch_network.forward_features(images)
    assert maps.shape == (3, 128, 8, 8)
    vectors = functional.avg_pool2d(maps, 2).flatten(2).transpose(1, 2)
    if encoder_positions:
        vectors = vectors + network.positions()
    expected = network.head.fc(network.pooling(vectors))
    assert expected.shape == (3, 5)
    torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize("sides", [(8, 8), (24, 24), (32, 64)])
def test_a_feature_map_that_is_not_a_multiple_of_the_grid_is_refused(hybrid, sides):
    with pytest.raises(ValueError, match="can't be cut into 4×4 patches"):
        hybrid(torch.rand(1, 3, *sides))


def test_every_patch_is_context(hybrid):
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    evaluation_mode(hybrid)(images)[0, 0].backward()
    assert (functional.max_pool2d(images.grad.abs(), 8) > 0).all()


def test_units_of_a_hybrid_drop_only_with_random_numbers(hybrid):
    images, network = torch.rand(4, 3, 32, 32), evaluation_mode(hybrid)

    def make_rng(seed, first_row=0):
        return DropoutRng(seed, batch_size=4, first_row=first_row)

    logits = network(images, make_rng(0))
    assert torch.equal(network(images, make_rng(0)), logits)
    assert not torch.allclose(network(images, make_rng(1)), logits)
    torch.testing.assert_close(network(images[2:], make_rng(0, first_row=2)), logits[2:])
    assert torch.equal(network.train()(images), network(images))  # no random numbers


def test_a_hybrid_has_the_size_of_the_paper(paper_config):
    network = build_classifier(paper_config.model, "resnet36_attention", paper_config.patch, 10)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert millions == pytest.approx(25.07 + 0.01 + 0.016, abs=0.01)  # P and A, head, positions


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_outputs_are_counted_from_the_tensors(make_config, architecture):
    config = make_config()
    network = build_classifier(config.model, architecture, config.patch, classes=7)
    assert num_classes(network.state_dict()) == 7
    assert evaluation_mode(network)(torch.rand(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(("stem", "stride"), [("small", 4), ("standard", 16)])
def test_the_stride_is_that_of_the_feature_map(make_config, stem, stride):
    model = make_config({"model.stem": stem}).model
    assert model.stride == stride
    network = build_classifier(model, "resnet36_attention", make_config().patch, 3)
    maps = network.patch_network.forward_features(torch.rand(1, 3, 64, 64))
    assert maps.shape[-1] == 64 // stride


def store(config, **changes):
    """Return the tensors and the provenance of a classifier."""
    network = build_classifier(config.model, config.finetune.architecture, config.patch, 3)
    made_with = dump_configuration(patch=config.patch, model=config.model, finetune=config.finetune)
    return network.state_dict(), {"configuration": made_with | changes}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_classifier_is_restored_from_its_provenance(make_config, architecture):
    config = make_config({"finetune.architecture": architecture, "model.width": 16})
    tensors, provenance = store(config)

    network = restore_classifier(tensors, provenance)

    assert network.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name


@pytest.mark.parametrize(
    "changes",
    [
        {"finetune": {"steps": 3}},
        {"finetune": None},
        {"finetune": {"architecture": ["resnet"]}},
        {"model": {"width": 8}},
        {"model": "large"},
        {"patch": []},
    ],
    ids=str,
)
def test_a_provenance_that_does_not_describe_the_network_is_an_error(make_config, changes):
    with pytest.raises(UserError, match="does not describe its network") as caught:
        restore_classifier(*store(make_config(), **changes))

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "provenance", [{}, {"configuration": None}, {"configuration": []}], ids=str
)
def test_a_provenance_without_configuration_is_an_error(make_config, provenance):
    tensors, _ = store(make_config())

    with pytest.raises(UserError, match="does not describe its network"):
        restore_classifier(tensors, provenance)


def drop_a_tensor(tensors):
    del tensors["stem.conv.weight"]


def drop_the_head(tensors):
    del tensors["head.fc.bias"]


def reshape_a_tensor(tensors):
    tensors["stem.conv.weight"] = tensors["stem.conv.weight"].flatten()


def make_the_head_a_scalar(tensors):
    tensors["head.fc.bias"] = torch.tensor(1.0)


@pytest.mark.parametrize(
    "damage", [drop_a_tensor, drop_the_head, reshape_a_tensor, make_the_head_a_scalar]
)
def test_tensors_of_another_network_are_an_error(make_config, damage):
    tensors, provenance = store(make_config())
    damage(tensors)

    with pytest.raises(UserError, match="does not describe its network") as caught:
        restore_classifier(tensors, provenance)

    assert "\n" not in str(caught.value)
