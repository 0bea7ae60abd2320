import pytest
from kedro.io.core import Version

from selfie_pipeline.datasets.atomic import CatalogError
from selfie_pipeline.datasets.folder import FolderDataset

CONTENT = {"load.py": b"print()", "weights": bytes(range(256))}


def version(folder, name=None):
    return FolderDataset(filepath=str(folder / "thing"), version=Version(None, name))


def test_files_load_as_they_were_saved(tmp_path):
    version(tmp_path, "v1").save(CONTENT)
    version(tmp_path, "v2").save({"other": b""})

    assert version(tmp_path).load() == {"other": b""}
    assert {file.name for file in (tmp_path / "thing/v1/thing").iterdir()} == CONTENT.keys()


def test_a_folder_is_whole_or_absent(tmp_path):
    version(tmp_path, "v1").save(CONTENT)

    with pytest.raises(CatalogError, match="v2/thing was not saved"):
        version(tmp_path, "v2").save({**CONTENT, "no/such/folder": b""})

    assert version(tmp_path).list_versions(full_path=False) == ["v1"]
    assert not list(tmp_path.rglob(".partial-*"))
