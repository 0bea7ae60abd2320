import pytest

from selfie_pipeline.paths import percent, pretraining_folder, short_hash, variant_folder


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.05, "5"), ("0.1", "10"), (1, "100"), (0.125, "12.5")]
)
def test_a_fraction_in_percent(fraction, expected):
    assert percent(fraction) == expected


@pytest.mark.parametrize(("images", "folder"), [(None, ""), ("all", ""), (2500, "images_2500/")])
def test_fewer_images_have_a_separate_folder(images, folder):
    assert pretraining_folder("none", images) == folder


@pytest.mark.parametrize("weights", ["/some/where/resnet50.safetensors", "resnet50.safetensors"])
def test_given_weights_have_a_separate_folder(weights):
    assert pretraining_folder(weights, "all") == "from_resnet50/"
    assert pretraining_folder(weights, 100) == "from_resnet50/images_100/"
    assert pretraining_folder(None, None) == ""


@pytest.mark.parametrize(
    ("pretrained_on", "weights", "images", "folder"),
    [
        ("cifar10", "none", "all", ""),
        ("cifar10", "none", 100, "images_100/"),
        ("imagenet32", "none", "all", "pretrained_on_imagenet32/"),
        ("imagenet32", "none", 100, "pretrained_on_imagenet32/images_100/"),
        ("imagenet32", "a.safetensors", "all", "pretrained_on_imagenet32/from_a/"),
    ],
)
def test_another_encoder_has_a_separate_folder(pretrained_on, weights, images, folder):
    assert variant_folder("cifar10", pretrained_on, weights, images) == folder


def test_a_short_hash_stands_for_any_text():
    assert short_hash("photos/*.jpg") == "9a519b37"
    assert short_hash("a") != short_hash("b")
    assert short_hash("\udce9").isalnum()
