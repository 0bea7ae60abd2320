"""Tests of the ResNet and the patch network."""

import math
from collections import OrderedDict

import pytest
import timm
import torch
from torch import nn
from torchvision.models import resnet50

from selfie_pipeline.models.backbone import PatchNetwork, build_resnet


def count_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def tensor_shapes(module):
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def test_p_has_the_size_of_the_paper(paper_config):
    network = PatchNetwork(paper_config.model)
    assert count_parameters(network) / 1e6 == pytest.approx(8.53, abs=0.005)
    assert [len(stage.blocks) for stage in network.stages] == [3, 4, 6]
    with torch.inference_mode():
        assert network.eval()(torch.rand(2, 3, 8, 8)).shape == (2, 1024)


def test_with_the_standard_stem_the_resnet_is_timms_resnetv2_50(make_config, paper_config):
    model = paper_config.model.model_copy(update={"stem": "standard"})
    network = build_resnet(model, classes=10).eval()
    theirs = timm.create_model("resnetv2_50", num_classes=10).eval()
    theirs.load_state_dict(network.state_dict(), strict=True)
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network(images), theirs(images))


def test_with_the_small_stem_only_the_stem_differs_from_timms(paper_config):
    network = build_resnet(paper_config.model, classes=10).eval()
    theirs = timm.create_model("resnetv2_50", num_classes=10).eval()
    theirs.stem = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 64, 3, padding=1, bias=False)))
    assert count_parameters(network) == count_parameters(theirs)
    assert tensor_shapes(network) == tensor_shapes(theirs)
    theirs.load_state_dict(network.state_dict(), strict=True)
    images = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network(images), theirs(images))


def test_v1_with_the_standard_stem_has_the_size_of_torchvisions_resnet50(paper_config):
    model = paper_config.model.model_copy(update={"stem": "standard", "preactivation": False})
    network = build_resnet(model, classes=1000)
    theirs = resnet50()
    assert count_parameters(network) == count_parameters(theirs)
    sizes = [sorted(p.numel() for p in each.parameters()) for each in (network, theirs)]
    assert sizes[0] == sizes[1]  # the head is a 1×1 convolution in the one, linear in the other


@pytest.mark.parametrize("preactivation", [True, False])
@pytest.mark.parametrize(("stem", "side"), [("small", 8), ("standard", 32)])
def test_a_patch_is_mapped_to_2_by_2(make_config, stem, side, preactivation):
    config = make_config({"model.stem": stem, "model.preactivation": preactivation})
    network = PatchNetwork(config.model).eval()
    patches = torch.rand(4, 3, side, side)
    maps = network.forward_features(patches)
    assert maps.shape == (4, 128, 2, 2)
    torch.testing.assert_close(network(patches), maps.mean(dim=(2, 3)))


def test_the_small_stem_keeps_the_resolution(make_config):
    network = PatchNetwork(make_config({"model.stem": "small"}).model)
    assert network.stem(torch.rand(1, 3, 8, 8)).shape == (1, 8, 8, 8)


def test_the_small_stem_is_initialised_as_timms_convolutions(paper_config):
    torch.manual_seed(0)
    weight = build_resnet(paper_config.model, classes=10).stem.conv.weight
    fan_out = 9 * 64  # He et al. (2015), https://arxiv.org/abs/1502.01852, equation 14
    assert weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
    assert weight.mean().item() == pytest.approx(0, abs=0.005)


def test_a_complete_image_is_mapped_to_2_by_2_per_patch(make_config):
    network = PatchNetwork(make_config().model).eval()
    assert network.forward_features(torch.rand(1, 3, 32, 32)).shape == (1, 128, 8, 8)


@pytest.mark.parametrize(
    ("preactivation", "normalise", "raw_sum"),
    [(True, True, False), (True, False, True), (False, True, False), (False, False, False)],
)
def test_only_v2_without_normalisation_pools_a_raw_sum(
    make_config, preactivation, normalise, raw_sum
):
    model = make_config(
        {"model.preactivation": preactivation, "model.normalise_before_pooling": normalise}
    ).model
    torch.manual_seed(0)
    maps = PatchNetwork(model).forward_features(torch.randn(8, 3, 8, 8))
    assert bool((maps < 0).any()) == raw_sum


def test_normalising_before_pooling_gives_every_feature_the_same_scale(make_config):
    torch.manual_seed(0)
    network = PatchNetwork(make_config().model)
    inputs = []
    network.norm.register_forward_hook(lambda _, args, __: inputs.append(args[0]))
    images = torch.randn(16, 3, 8, 8)
    maps = network.forward_features(images)
    std, mean = torch.std_mean(inputs[0], dim=(0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(maps, ((inputs[0] - mean) / std).relu(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("width", [8, 24])
@pytest.mark.parametrize("layers", [[1, 1, 1, 1], [2, 1, 3, 2]])
def test_depth_and_width_are_parameters(make_config, layers, width):
    model = make_config({"model.layers": layers, "model.width": width}).model
    network = build_resnet(model, classes=5).eval()
    assert [len(stage.blocks) for stage in network.stages] == layers
    assert network.stem.conv.out_channels == width
    assert network.head.fc.in_channels == 32 * width
    assert network(torch.rand(2, 3, 16, 16)).shape == (2, 5)
    assert PatchNetwork(model).eval()(torch.rand(2, 3, 8, 8)).shape == (2, 16 * width)


@pytest.mark.parametrize("stem", ["small", "standard"])
@pytest.mark.parametrize("preactivation", [True, False])
def test_ps_tensors_have_the_names_and_shapes_of_the_resnets(make_config, stem, preactivation):
    model = make_config({"model.stem": stem, "model.preactivation": preactivation}).model
    resnet = tensor_shapes(build_resnet(model, classes=5))
    p = {
        name: shape
        for name, shape in tensor_shapes(PatchNetwork(model)).items()
        if not name.startswith("norm.")
    }
    assert p == {
        name: shape
        for name, shape in resnet.items()
        if not name.startswith(("stages.3.", "norm.", "head."))
    }
