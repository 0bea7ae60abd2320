"""Tests of opening the source that the parameters name."""

import pytest

from selfie_pipeline.config import UserError
from selfie_pipeline.sources import open_source
from selfie_pipeline.sources.digits import Digits


def test_an_embedded_source_needs_no_folder(data_config, tmp_path):
    assert isinstance(open_source(data_config(source="digits", folder=None), tmp_path), Digits)


@pytest.mark.parametrize("absolute", [True, False])
def test_a_source_of_files_is_opened_in_its_folder(data_config, cifar_folder, absolute):
    folder = str(cifar_folder) if absolute else cifar_folder.name

    source = open_source(data_config(source="cifar10", folder=folder), cifar_folder.parent)

    assert len(source.samples()) == 23


def test_the_home_folder_is_expanded_in_folder_and_labels(
    data_config, folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    for number in range(4):
        (folder / f"{number}.png").touch()
    (tmp_path / "labels.csv").write_text("file,class\n0.png,cat\n1.png,cat\n2.png,dog\n3.png,dog\n")

    config = data_config(folder="~/images", labels=["~/labels.csv"])
    source = open_source(config, tmp_path / "project")

    assert source.samples()["class_name"].tolist() == ["cat", "dog", "cat", "dog"]


def test_a_home_folder_that_is_unknown_is_part_of_the_name(data_config, tmp_path):
    with pytest.raises(UserError, match=r"~no-such-user/images does not exist"):
        open_source(data_config(folder="~no-such-user/images"), tmp_path)
    with pytest.raises(UserError, match=r"~no-such-user/labels\.csv does not exist"):
        open_source(data_config(labels=["~no-such-user/labels.csv"]), tmp_path)


@pytest.mark.parametrize("source", ["cifar10", "imagenet32", "image_folder"])
def test_a_source_of_files_without_a_folder_is_refused(data_config, source, tmp_path):
    with pytest.raises(UserError, match=r"data\.folder = null"):
        open_source(data_config(source=source, folder=None), tmp_path)


@pytest.mark.parametrize("source", ["imagenet32", "image_folder"])
def test_an_absent_folder_is_refused_with_the_expected_files(data_config, source, tmp_path):
    with pytest.raises(UserError, match=r"absent .*; put ") as caught:
        open_source(data_config(source=source, folder="absent"), tmp_path)

    assert "\n" not in str(caught.value)
