"""Tests of the classifiers and of loading pretrained tensors into them."""

import pytest
import torch
from torch.nn import functional

from selfie_pipeline.config import UserError
from selfie_pipeline.models.classifier import (
    build_classifier,
    load_pretrained,
    num_classes,
    pretrained_stages,
    restore_classifier,
)
from selfie_pipeline.models.dropout import DropoutRng
from selfie_pipeline.models.selfie import Selfie
from selfie_pipeline.provenance import dump_configuration

ARCHITECTURES = ["resnet", "resnet36_attention"]
PRETRAINED = ("stem.", "stages.0.", "stages.1.", "stages.2.")


def copy_tensors(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.fixture(params=[True, False], ids=["v2", "v1"])
def config(request, make_config):
    return make_config({"model.preactivation": request.param, "model.layers": [1, 2, 1, 1]})


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


@pytest.fixture
def hybrid(config):
    torch.manual_seed(2)
    return build_classifier(config.model, "resnet36_attention", config.patch, classes=10)


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
    with pytest.raises(ValueError, match="does not fit") as caught:
        load_pretrained(encoder, classifier)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    for name, tensor in classifier.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def some_tensors(config):
    kinds = ("conv1.weight", "norm2.running_var", "norm1.bias", "norm3.num_batches_tracked")
    names = [f"stages.1.blocks.1.{kind}" for kind in kinds]
    return ["stem.conv.weight", *names]


def test_a_missing_tensor_is_an_error(config, encoder, classifier):
    for name in some_tensors(config):
        incomplete = without(encoder, f"patch_network.{name}")
        assert_refused(incomplete, classifier, name, "missing in the encoder")


@pytest.mark.parametrize(
    "name", ["stages.2.blocks.7.conv1.weight", "stages.0.blocks.0.norm9.weight", "stem.extra"]
)
def test_a_surplus_tensor_is_an_error(encoder, classifier, name):
    surplus = {**encoder, f"patch_network.{name}": torch.zeros(3)}
    assert_refused(surplus, classifier, name, "not part of the network")


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
    assert_refused(other, classifier, "stages.0.blocks.0.conv1.weight", "more")


@pytest.mark.parametrize("prefix", ["module.", "network.", "_orig_mod.patch_network."])
def test_fault_weights_that_silently_do_not_load_because_of_a_key_prefix(
    encoder, classifier, prefix
):
    renamed = {prefix + name: tensor for name, tensor in encoder.items()}
    assert_refused(renamed, classifier, "missing in the encoder")


def test_one_tensor_under_another_prefix_is_an_error(encoder, classifier):
    renamed = dict(encoder)
    renamed["module.stem.conv.weight"] = renamed.pop("patch_network.stem.conv.weight")
    assert_refused(renamed, classifier, "stem.conv.weight")


def test_an_empty_encoder_is_an_error(classifier):
    assert_refused({}, classifier, "missing in the encoder")


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
    assert_refused(without(encoder, name), hybrid, name, "missing")
    assert_refused({**encoder, name: torch.zeros(7, 3)}, hybrid, name, "7×3")
    surplus = f"{name}.more"
    assert_refused({**encoder, surplus: torch.zeros(3)}, hybrid, surplus, "not part of the network")


def test_ps_last_normalisation_is_part_of_a_hybrid(encoder, hybrid):
    names = [name for name in encoder if name.startswith("patch_network.norm.")]
    for name in names:  # none in v1
        assert_refused(without(encoder, name), hybrid, name, "missing in the encoder")
    assert len([name for name in names if "running" in name]) == (2 if names else 0)


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
    maps = network.patch_network.features(images)
    assert maps.shape == (3, 128, 8, 8)
    vectors = functional.avg_pool2d(maps, 2).flatten(2).transpose(1, 2)
    if encoder_positions:
        vectors = vectors + network.positions()
    expected = network.head.fc(network.pooling(vectors))
    assert expected.shape == (3, 5)
    torch.testing.assert_close(network(images), expected)


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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
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


@pytest.mark.parametrize(("stem", "stride"), [("small", 4), ("standard", 16)])
def test_the_stride_is_that_of_the_feature_map(make_config, stem, stride):
    model = make_config({"model.stem": stem}).model
    assert model.stride == stride
    network = build_classifier(model, "resnet36_attention", make_config().patch, 3)
    assert network.patch_network.features(torch.rand(1, 3, 64, 64)).shape[-1] == 64 // stride


def store(config, **changes):
    """Return the tensors and the provenance of a classifier."""
    network = build_classifier(config.model, config.finetune.architecture, config.patch, 3)
    made_with = dump_configuration(patch=config.patch, model=config.model, finetune=config.finetune)
    return copy_tensors(network), {"configuration": made_with | changes}


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
