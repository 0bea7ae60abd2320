"""Tests of given weights: timm's own networks, and files of this project."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from selfie_pipeline.config import UserError
from selfie_pipeline.models.backbone import PatchNetwork, build_resnet
from selfie_pipeline.models.classifier import build_classifier, load_pretrained
from selfie_pipeline.models.export import select_patch_network
from selfie_pipeline.models.given_weights import load_given_weights
from selfie_pipeline.models.selfie import Selfie

V1 = {"model.stem": "standard", "model.preactivation": False, "model.width": 64}


def randomise(network: torch.nn.Module) -> torch.nn.Module:
    """Give BatchNorm's weights and statistics other values than their first ones."""
    for tensor in network.state_dict().values():
        if tensor.ndim == 1:
            tensor.uniform_(0.5, 2)
    return network.eval()


@pytest.fixture
def timm_v1() -> torch.nn.Module:
    """Return timm's ResNet v1, whose stem has 64 channels, with one block a stage."""
    return randomise(timm.create_model("resnet50", layers=[1, 1, 1, 1], num_classes=1000))


def test_a_resnet_v1_of_timm_computes_the_same(make_config: Any, timm_v1: Any) -> None:
    network = build_resnet(make_config(V1).model, classes=10).eval()
    images = torch.randn(2, 3, 64, 64)

    loaded = load_given_weights(timm_v1.state_dict(), network)

    assert set(loaded) == {n for n in network.state_dict() if not n.startswith("head.")}
    with torch.inference_mode():
        expected = timm_v1.forward_features(images)
        torch.testing.assert_close(network.forward_features(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stem", ["standard", "small"])
def test_a_resnet_v2_of_timm_is_loaded_whole_but_its_head(make_config: Any, stem: str) -> None:
    model = make_config({"model.stem": stem}).model
    given = randomise(build_resnet(model, classes=1000))  # timm's `resnetv2_50`, narrow
    network = build_resnet(model, classes=10)
    head = network.head.fc.weight.clone()

    load_given_weights(given.state_dict(), network)

    assert torch.equal(network.head.fc.weight, head)
    for name, tensor in network.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(tensor, given.state_dict()[name]), name


def test_p_receives_three_stages_and_keeps_its_normalisation(make_config: Any) -> None:
    config = make_config()
    given = randomise(build_resnet(config.model, classes=7)).state_dict()
    network = Selfie(config.model, config.patch)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    loaded = load_given_weights(given, network)

    after = network.state_dict()
    assert loaded == sorted(n for n in after if ".stem." in n or ".stages." in n)
    for name, tensor in after.items():
        expected = given[name.removeprefix("patch_network.")] if name in loaded else before[name]
        assert torch.equal(tensor, expected), name


def test_p_receives_its_normalisation_from_another_p(make_config: Any) -> None:
    config = make_config()
    given = randomise(PatchNetwork(config.model)).state_dict()
    network = Selfie(config.model, config.patch)

    load_given_weights(given, network)

    assert torch.equal(network.patch_network.norm.weight, given["norm.weight"])


@pytest.mark.parametrize("exported", [False, True])
def test_an_encoder_is_loaded_as_finetuning_does(make_config: Any, exported: bool) -> None:
    config = make_config()
    encoder = randomise(Selfie(config.model, config.patch)).state_dict()
    torch.manual_seed(0)
    ours = build_classifier(config.model, "resnet", config.patch, 10)
    torch.manual_seed(0)
    theirs = build_classifier(config.model, "resnet", config.patch, 10)

    names = load_given_weights(select_patch_network(encoder) if exported else encoder, ours)

    assert names == load_pretrained(encoder, theirs)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


def test_weights_of_a_hybrid_classifier_give_p_alone(make_config: Any) -> None:
    config = make_config()
    given = randomise(build_classifier(config.model, "resnet36_attention", config.patch, 3))
    network = build_classifier(config.model, "resnet36_attention", config.patch, 10)

    loaded = load_given_weights(given.state_dict(), network)

    assert {name.split(".")[0] for name in loaded} == {"patch_network"}


def test_counts_of_batches_may_be_missing(make_config: Any, timm_v1: Any) -> None:
    network = build_resnet(make_config(V1).model, classes=10)
    without = {n: t for n, t in timm_v1.state_dict().items() if "num_batches" not in n}

    assert not [name for name in load_given_weights(without, network) if "num_batches" in name]


def refuse(tensors: dict[str, torch.Tensor], network: torch.nn.Module) -> str:
    """Assert that the weights are refused with one line, and that nothing is loaded."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_given_weights(tensors, network)
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())
    (line,) = str(error.value).splitlines()
    return line


def test_missing_tensors_are_counted_and_the_first_are_named(
    make_config: Any, timm_v1: Any
) -> None:
    network = build_resnet(make_config(V1).model, classes=10)
    kept = {name: t for name, t in timm_v1.state_dict().items() if "layer2" not in name}

    line = refuse(kept, network)

    assert "20 of 102 tensors are missing: stages.1.blocks.0.downsample.conv.weight, " in line
    assert " more; the network is of " in line


def test_another_architecture_is_named(make_config: Any, timm_v1: Any) -> None:
    line = refuse(timm_v1.state_dict(), build_resnet(make_config().model, classes=10))

    assert "stem.conv.weight is 64×3×7×7 instead of 8×3×3×3, " in line
    assert "the network is of model.layers=[1,1,1,1],model.width=8,model.stem=small," in line
    assert line.endswith(
        "the weights are of model.layers=[1,1,1,1],model.width=64,model.stem=standard,"
        "model.preactivation=false"
    )


@pytest.mark.parametrize(
    ("name", "described"),
    [("resnet18", "model.preactivation=false, in basic blocks"), ("vit_tiny_patch16_224", "names")],
)
def test_other_networks_of_timm_are_refused(make_config: Any, name: str, described: str) -> None:
    network = build_resnet(make_config(V1).model, classes=10)

    assert refuse(timm.create_model(name).state_dict(), network).endswith(described)


def test_unknown_and_doubled_names_are_refused(make_config: Any) -> None:
    network = build_resnet(make_config().model, classes=10)
    own = dict(network.state_dict())

    line = refuse(own | {"ema\n.weight": torch.ones(1)}, network)
    assert r"1 of 83 tensors are not part of the network: ema\n.weight;" in line
    line = refuse(own | {"conv1.weight": own["stem.conv.weight"]}, network)
    assert "twice" in line
    assert "are missing: stem.conv.weight" in refuse({}, network)
