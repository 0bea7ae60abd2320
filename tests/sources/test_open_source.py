"""Tests of opening the source that the parameters name."""

import pytest

from selfie_pipeline.config import DataConfig, UserError
from selfie_pipeline.sources import open_source
from selfie_pipeline.sources.cifar10 import Cifar10
from selfie_pipeline.sources.digits import Digits


def config(source, folder="raw"):
    return DataConfig(name="x", source=source, folder=folder, max_unreadable=0)


def test_an_embedded_source_needs_no_folder():
    assert isinstance(open_source(config("digits", folder=None), None), Digits)


def test_a_source_of_files_is_opened_in_its_folder(cifar_folder):
    assert isinstance(open_source(config("cifar10"), cifar_folder), Cifar10)


@pytest.mark.parametrize("source", ["cifar10", "imagenet32", "image_folder"])
def test_a_source_of_files_without_a_folder_is_refused(source):
    with pytest.raises(UserError, match=r"data\.folder = null"):
        open_source(config(source, folder=None), None)


@pytest.mark.parametrize("source", ["imagenet32", "image_folder"])
def test_an_absent_folder_is_refused_with_the_expected_files(source, tmp_path):
    with pytest.raises(UserError, match=r"absent .*; put ") as caught:
        open_source(config(source), tmp_path / "absent")

    assert "\n" not in str(caught.value)
