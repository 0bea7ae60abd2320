import pytest

from selfie_pipeline.paths import images_folder, percent, variant_folder


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.05, "5"), ("0.1", "10"), (1, "100"), (0.125, "12.5")]
)
def test_a_fraction_in_percent(fraction, expected):
    assert percent(fraction) == expected


@pytest.mark.parametrize(("images", "folder"), [(None, ""), ("all", ""), (2500, "images_2500/")])
def test_fewer_images_have_a_separate_folder(images, folder):
    assert images_folder(images) == folder


@pytest.mark.parametrize(
    ("pretrained_on", "images", "folder"),
    [
        ("cifar10", "all", ""),
        ("cifar10", 100, "images_100/"),
        ("imagenet32", "all", "pretrained_on_imagenet32/"),
        ("imagenet32", 100, "pretrained_on_imagenet32/images_100/"),
    ],
)
def test_another_encoder_has_a_separate_folder(pretrained_on, images, folder):
    assert variant_folder("cifar10", pretrained_on, images) == folder
