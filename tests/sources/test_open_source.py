import pytest

from selfie_pipeline.config import DataConfig, UserError
from selfie_pipeline.sources import open_source
from selfie_pipeline.sources.cifar10 import Cifar10
from selfie_pipeline.sources.digits import Digits


def test_an_embedded_source_needs_no_folder():
    assert isinstance(open_source(DataConfig(source="digits", folder=None), None), Digits)


def test_a_source_in_files_is_opened_where_they_lie(cifar_folder):
    source = open_source(DataConfig(source="cifar10", folder="raw"), cifar_folder)

    assert isinstance(source, Cifar10)


def test_a_source_in_files_without_a_folder_is_refused():
    with pytest.raises(UserError, match=r"data\.folder = null"):
        open_source(DataConfig(source="cifar10", folder=None), None)
