import pytest
import torch

from selfie_pipeline.models.backbone import build_resnet
from selfie_pipeline.models.classifier import hand_over
from selfie_pipeline.models.selfie import Selfie

PRETRAINED = ("stem.", "stages.0.", "stages.1.", "stages.2.")


def snapshot(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.fixture(params=[True, False], ids=["v2", "v1"])
def config(request, make_config):
    return make_config({"model.preactivation": request.param, "model.layers": [1, 2, 1, 1]})


@pytest.fixture
def encoder(config):
    """A pretrained one: its BatchNorm statistics have seen images."""
    torch.manual_seed(1)
    network = Selfie(config.model, config.patch)
    for _ in range(3):
        network(torch.rand(4, 16, 3, 8, 8) * 3, torch.rand(4, 16).argsort(1))
    return snapshot(network)


@pytest.fixture
def classifier(config):
    torch.manual_seed(2)
    return build_resnet(config.model, classes=10)


def test_stem_and_stages_are_handed_over_whole(encoder, classifier):
    names = hand_over(encoder, classifier)
    own = classifier.state_dict()
    assert names == sorted(name for name in own if name.startswith(PRETRAINED))
    assert names == sorted(
        name.removeprefix("patch_network.")
        for name in encoder
        if name.startswith("patch_network.") and not name.startswith("patch_network.norm.")
    )
    for name in names:
        assert torch.equal(own[name], encoder[f"patch_network.{name}"]), name


def test_batch_norm_s_statistics_are_among_it(encoder, classifier):
    names = hand_over(encoder, classifier)
    means = [name for name in names if name.endswith("running_mean")]
    assert len(means) == len([name for name in names if name.endswith("running_var")]) > 8
    own = classifier.state_dict()
    assert all(own[name].any() for name in means)
    counters = [name for name in names if name.endswith("num_batches_tracked")]
    assert len(counters) == len(means)
    assert {own[name].item() for name in counters} == {3}


def test_stage_four_and_the_head_stay_fresh(encoder, classifier):
    before = snapshot(classifier)
    names = hand_over(encoder, classifier)
    fresh = before.keys() - set(names)
    assert fresh == {name for name in before if name.startswith(("stages.3.", "norm.", "head."))}
    for name in fresh:
        assert torch.equal(classifier.state_dict()[name], before[name]), name


def test_the_classifier_then_computes_p_s_features(config, encoder, classifier):
    selfie = Selfie(config.model, config.patch)
    selfie.load_state_dict(encoder)
    hand_over(encoder, classifier)
    p = selfie.patch_network.eval()
    images = torch.rand(2, 3, 32, 32)
    stages = classifier.eval().stages[:3]
    torch.testing.assert_close(stages(classifier.stem(images)), p.stages(p.stem(images)))


def refused(encoder, classifier, *words):
    """It is an error that names the tensor, and nothing has been copied."""
    before = snapshot(classifier)
    with pytest.raises(ValueError, match="does not fit") as caught:
        hand_over(encoder, classifier)
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
        short = {key: value for key, value in encoder.items() if key != f"patch_network.{name}"}
        refused(short, classifier, name, "missing in the encoder")


@pytest.mark.parametrize(
    "name", ["stages.2.blocks.7.conv1.weight", "stages.0.blocks.0.norm9.weight", "stem.extra"]
)
def test_a_surplus_tensor_is_an_error(encoder, classifier, name):
    surplus = {**encoder, f"patch_network.{name}": torch.zeros(3)}
    refused(surplus, classifier, name, "no place in the network")


def test_a_stage_that_p_does_not_have_is_an_error(encoder, classifier):
    name = "stages.3.blocks.0.conv1.weight"
    surplus = {**encoder, f"patch_network.{name}": classifier.state_dict()[name] + 1}
    refused(surplus, classifier, name)


def test_a_tensor_of_another_shape_is_an_error(config, encoder, classifier):
    for name in some_tensors(config):
        wrong = {**encoder, f"patch_network.{name}": torch.zeros(7, 3)}
        refused(wrong, classifier, name, "7×3")


def test_an_encoder_of_another_width_is_an_error(config, classifier):
    other = Selfie(config.model.model_copy(update={"width": 16}), config.patch).state_dict()
    refused(other, classifier, "stages.0.blocks.0.conv1.weight", "more")


@pytest.mark.parametrize("prefix", ["module.", "network.", "_orig_mod.patch_network."])
def test_fault_weights_that_silently_do_not_load_because_of_a_key_prefix(
    encoder, classifier, prefix
):
    renamed = {prefix + name: tensor for name, tensor in encoder.items()}
    refused(renamed, classifier, "missing in the encoder")


def test_one_tensor_under_another_prefix_is_an_error(encoder, classifier):
    renamed = dict(encoder)
    renamed["module.stem.conv.weight"] = renamed.pop("patch_network.stem.conv.weight")
    refused(renamed, classifier, "stem.conv.weight")


def test_an_empty_encoder_is_an_error(classifier):
    refused({}, classifier, "missing in the encoder")
