"""Tests of the dataset types for folders."""

import pytest
from kedro.io.core import DatasetError, Version

from selfie_pipeline.datasets.atomic import CatalogError
from selfie_pipeline.datasets.folder import FolderDataset, FolderPathDataset

CONTENT = {"load.py": b"print()", "weights": bytes(range(256))}


def version(folder, save=None):
    return FolderDataset(filepath=str(folder / "thing"), version=Version(None, save))


def test_files_load_as_they_were_saved(tmp_path):
    version(tmp_path, "v1").save(CONTENT)
    version(tmp_path, "v2").save({"other": b""})

    assert version(tmp_path).load() == {"other": b""}
    assert {file.name for file in (tmp_path / "thing/v1/thing").iterdir()} == CONTENT.keys()


def test_a_folder_is_complete_or_absent(tmp_path):
    version(tmp_path, "v1").save(CONTENT)

    with pytest.raises(CatalogError, match="v2/thing was not saved"):
        version(tmp_path, "v2").save({**CONTENT, "no/such/folder": b""})

    assert version(tmp_path).list_versions(full_path=False) == ["v1"]
    assert not list(tmp_path.rglob(".partial-*"))


def test_a_folder_path_is_loaded_and_never_saved(tmp_path):
    dataset = FolderPathDataset(filepath=str(tmp_path / "absent"))

    assert dataset.exists()
    assert dataset.load() == tmp_path / "absent"
    with pytest.raises(DatasetError, match="nodes write into"):
        dataset.save(tmp_path)
