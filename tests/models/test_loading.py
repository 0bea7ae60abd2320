"""Tests of loading: encoders, timm's own networks, and files of this project."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from selfie_pipeline.config import UserError
from selfie_pipeline.models.backbone import PatchNetwork, build_resnet
from selfie_pipeline.models.classifier import build_classifier, pretrained_stages
from selfie_pipeline.models.export import select_patch_network
from selfie_pipeline.models.loading import load_given_weights, load_pretrained
from selfie_pipeline.models.selfie import Selfie

V1 = {"model.stem": "standard", "model.preactivation": False, "model.width": 64}
PRETRAINED = ("stem.", "stages.0.", "stages.1.", "stages.2.")


def copy_tensors(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.fixture
def encoder(config):
    """The tensors of an encoder whose BatchNorm statistics are not the initial ones."""
    torch.manual_seed(1)
    network = Selfie(config.model, config.patch)
    for _ in range(3):
        network(torch.rand(4, 16, 3, 8, 8) * 3, torch.rand(4, 16).argsort(1))
    return copy_tensors(network)


@pytest.fixture
def classifier(config):
    torch.manual_seed(2)
    return build_classifier(config.model, "resnet", config.patch, classes=10)


def test_stem_and_stages_are_loaded_completely(encoder, classifier):
    names = load_pretrained(encoder, classifier)
    own = classifier.state_dict()
    assert names == sorted(name for name in own if name.startswith(PRETRAINED))
    assert names == sorted(
        name.removeprefix("patch_network.")
        for name in encoder
        if name.startswith("patch_network.") and not name.startswith("patch_network.norm.")
    )
    for name in names:
        assert torch.equal(own[name], encoder[f"patch_network.{name}"]), name


def test_batch_norm_statistics_are_loaded(encoder, classifier):
    names = load_pretrained(encoder, classifier)
    means = [name for name in names if name.endswith("running_mean")]
    assert len(means) == len([name for name in names if name.endswith("running_var")]) > 8
    own = classifier.state_dict()
    assert all(own[name].any() for name in means)
    counters = [name for name in names if name.endswith("num_batches_tracked")]
    assert len(counters) == len(means)
    assert {own[name].item() for name in counters} == {3}


def test_stage_four_and_the_head_are_not_changed(encoder, classifier):
    before = copy_tensors(classifier)
    names = load_pretrained(encoder, classifier)
    fresh = before.keys() - set(names)
    assert fresh == {name for name in before if name.startswith(("stages.3.", "norm.", "head."))}
    for name in fresh:
        assert torch.equal(classifier.state_dict()[name], before[name]), name


def test_the_loaded_classifier_computes_ps_features(config, encoder, classifier):
    selfie = Selfie(config.model, config.patch)
    selfie.load_state_dict(encoder)
    load_pretrained(encoder, classifier)
    p = selfie.patch_network.eval()
    images = torch.rand(2, 3, 32, 32)
    stages = classifier.eval().stages[:3]
    torch.testing.assert_close(stages(classifier.stem(images)), p.stages(p.stem(images)))


def without(tensors, name):
    return {key: value for key, value in tensors.items() if key != name}


def assert_refused(encoder, classifier, *words):
    """Assert that loading is an error with these words, and that nothing has been loaded."""
    before = copy_tensors(classifier)
    with pytest.raises(UserError, match="do not fit") as caught:
        load_pretrained(encoder, classifier)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    for name, tensor in classifier.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def some_tensors(config):
    kinds = ("conv1.weight", "norm2.running_var", "norm1.bias")
    names = [f"stages.1.blocks.1.{kind}" for kind in kinds]
    return ["stem.conv.weight", *names]


def test_a_missing_tensor_is_an_error(config, encoder, classifier):
    for name in some_tensors(config):
        incomplete = without(encoder, f"patch_network.{name}")
        assert_refused(incomplete, classifier, name, "are missing")


@pytest.mark.parametrize(
    "name", ["stages.2.blocks.7.conv1.weight", "stages.0.blocks.0.norm9.weight", "stem.extra"]
)
def test_a_surplus_tensor_is_an_error(encoder, classifier, name):
    surplus = {**encoder, f"patch_network.{name}": torch.zeros(3)}
    assert_refused(surplus, classifier, name, "are not part of the network")


def test_a_stage_that_p_does_not_have_is_an_error(encoder, classifier):
    name = "stages.3.blocks.0.conv1.weight"
    surplus = {**encoder, f"patch_network.{name}": classifier.state_dict()[name] + 1}
    assert_refused(surplus, classifier, name)


def test_a_tensor_of_another_shape_is_an_error(config, encoder, classifier):
    for name in some_tensors(config):
        wrong = {**encoder, f"patch_network.{name}": torch.zeros(7, 3)}
        assert_refused(wrong, classifier, name, "7×3")


def test_an_encoder_of_another_width_is_an_error(config, classifier):
    other = Selfie(config.model.model_copy(update={"width": 16}), config.patch).state_dict()
    assert_refused(other, classifier, "stem.conv.weight is 16×3×3×3 instead of 8×3×3×3", "more")


@pytest.mark.parametrize("prefix", ["module.", "network.", "_orig_mod.patch_network."])
def test_fault_weights_that_silently_do_not_load_because_of_a_key_prefix(
    encoder, classifier, prefix
):
    renamed = {prefix + name: tensor for name, tensor in encoder.items()}
    assert_refused(renamed, classifier, "are missing")


def test_one_tensor_under_another_prefix_is_an_error(encoder, classifier):
    renamed = dict(encoder)
    renamed["module.stem.conv.weight"] = renamed.pop("patch_network.stem.conv.weight")
    assert_refused(renamed, classifier, "stem.conv.weight")


def test_an_empty_encoder_is_an_error(classifier):
    assert_refused({}, classifier, "are missing")


def test_a_hybrid_receives_everything_but_its_head(encoder, hybrid):
    before = copy_tensors(hybrid)
    names = load_pretrained(encoder, hybrid)
    assert names == sorted(encoder)
    own = hybrid.state_dict()
    for name in names:
        assert torch.equal(own[name], encoder[name]), name
    assert own.keys() - set(names) == {"head.fc.weight", "head.fc.bias"}
    for name in own.keys() - set(names):
        assert torch.equal(own[name], before[name]), name


def test_positions_that_a_hybrid_does_not_use_are_not_loaded(config, encoder):
    model = config.model.model_copy(update={"encoder_positions": False})
    network = build_classifier(model, "resnet36_attention", config.patch, classes=10)
    names = load_pretrained(encoder, network)
    assert names == sorted(name for name in encoder if not name.startswith("positions."))
    assert not [name for name in network.state_dict() if "positions" in name]


@pytest.mark.parametrize(
    "name",
    [
        "pooling.u0",
        "pooling.blocks.1.self_attn.in_proj_weight",
        "positions.table",
        "patch_network.stem.conv.weight",
        "patch_network.stages.2.blocks.0.conv1.weight",
    ],
)
def test_missing_misshapen_and_surplus_tensors_of_a_hybrid_are_errors(encoder, hybrid, name):
    plain = name.removeprefix("patch_network.")
    assert_refused(without(encoder, name), hybrid, plain, "are missing")
    assert_refused({**encoder, name: torch.zeros(7, 3)}, hybrid, plain, "7×3")
    surplus = {**encoder, f"{name}.more": torch.zeros(3)}
    assert_refused(surplus, hybrid, f"{plain}.more", "are not part of the network")


def test_ps_last_normalisation_is_part_of_a_hybrid(encoder, hybrid):
    names = [name for name in encoder if name.startswith("patch_network.norm.")]
    for name in names[:4]:  # none in v1; the fifth is the count of batches
        plain = name.removeprefix("patch_network.")
        assert_refused(without(encoder, name), hybrid, plain, "are missing")
    assert len([name for name in names if "running" in name]) == (2 if names else 0)


@pytest.mark.parametrize("architecture", ["resnet", "resnet36_attention"])
def test_the_pretrained_stages_are_the_loaded_ones(config, encoder, architecture):
    network = build_classifier(config.model, architecture, config.patch, classes=10)
    loaded = load_pretrained(encoder, network)
    own = network.state_dict(keep_vars=True)
    stages = {
        id(tensor) for tensor in pretrained_stages(network).state_dict(keep_vars=True).values()
    }
    assert {name for name in own if id(own[name]) in stages} == {
        name for name in loaded if not name.startswith(("pooling.", "positions."))
    }


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
        "the given weights are of model.layers=[1,1,1,1],model.width=64,model.stem=standard,"
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
    assert "two tensors among the given weights have the same name in timm" in line
    assert "are missing: stem.conv.weight" in refuse({}, network)
