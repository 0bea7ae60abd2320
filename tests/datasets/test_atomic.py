"""Tests of the atomic dataset types: versions, failures while saving, previews."""

import signal
import subprocess
import sys
from inspect import signature
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from kedro.io import DataCatalog
from kedro.io.core import DatasetError, Version
from matplotlib.figure import Figure as MatplotlibFigure

from selfie_pipeline.config import UserError
from selfie_pipeline.datasets.atomic import CatalogError, MissingVersionError, atomic_save
from selfie_pipeline.datasets.figures import AtomicFigureDataset
from selfie_pipeline.datasets.folder import FolderDataset
from selfie_pipeline.datasets.tables import AtomicCSVDataset, AtomicParquetDataset
from selfie_pipeline.datasets.text import AtomicJSONDataset, AtomicTextDataset

TABLE = pd.DataFrame({"name": ["é", "±"], "value": [1.5, 2.5]})
LARGER_TABLE = pd.DataFrame({"value": np.random.default_rng(0).random(10_000)})


def make_figure():
    figure = MatplotlibFigure()
    figure.subplots().plot([0, 1])
    return figure


VALUES = {
    AtomicCSVDataset: (TABLE, LARGER_TABLE),
    AtomicParquetDataset: (TABLE, LARGER_TABLE),
    AtomicJSONDataset: ({"é": [1, 2]}, list(range(10_000))),
    AtomicTextDataset: ("79.3 ± 1.0", "±" * 10_000),
    AtomicFigureDataset: (make_figure(), make_figure()),
}
every_type = pytest.mark.parametrize("dataset_type", VALUES)


def version(dataset_type, folder, save=None, load=None):
    return dataset_type(filepath=str(folder / "thing"), version=Version(load, save))


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def equal(a, b):
    return a.equals(b) if isinstance(a, pd.DataFrame) else a == b


@every_type
def test_a_version_is_stored_at_kedros_path_and_nothing_else_is(dataset_type, tmp_path):
    version(dataset_type, tmp_path, save="v1").save(VALUES[dataset_type][0])

    assert files_of(tmp_path) == ["thing/v1/thing"]
    assert version(dataset_type, tmp_path).exists()
    assert version(dataset_type, tmp_path).list_versions(full_path=False) == ["v1"]


@pytest.mark.parametrize(
    "dataset_type", [each for each in VALUES if each is not AtomicFigureDataset]
)
def test_versions_load_as_they_were_saved(dataset_type, tmp_path):
    first, second = VALUES[dataset_type]
    version(dataset_type, tmp_path, save="v1").save(first)
    version(dataset_type, tmp_path, save="v2").save(second)

    assert equal(version(dataset_type, tmp_path).load(), second)
    assert equal(version(dataset_type, tmp_path, load="v1").load(), first)


def test_a_requested_version_that_does_not_exist_is_named_with_those_that_do(tmp_path):
    requested = version(FolderDataset, tmp_path, load="v9")
    with pytest.raises(MissingVersionError, match=r"thing/v9/thing does not .* versions: none$"):
        requested.load()

    for number in ("v1", "v2"):
        version(FolderDataset, tmp_path, save=number).save({})
    with pytest.raises(MissingVersionError, match=r"available versions: v2, v1$"):
        requested.load()


@every_type
def test_a_version_is_never_overwritten(dataset_type, tmp_path):
    version(dataset_type, tmp_path, save="v1").save(VALUES[dataset_type][0])
    before = (tmp_path / "thing/v1/thing").read_bytes()

    with pytest.raises(DatasetError, match="must not exist"):
        version(dataset_type, tmp_path, save="v1").save(VALUES[dataset_type][1])

    assert (tmp_path / "thing/v1/thing").read_bytes() == before


def test_without_versions_the_file_is_replaced(tmp_path):
    dataset = AtomicTextDataset(filepath=str(tmp_path / "thing"))
    dataset.save("before")
    dataset.save("after")

    assert dataset.load() == "after"
    assert files_of(tmp_path) == ["thing"]


@every_type
def test_a_full_disk_leaves_the_version_before(dataset_type, tmp_path, small_disk):
    version(dataset_type, tmp_path, save="v1").save(VALUES[dataset_type][0])

    with (
        pytest.raises(CatalogError, match=r"v2/thing was not saved.*large") as error,
        small_disk(),
    ):
        version(dataset_type, tmp_path, save="v2").save(VALUES[dataset_type][1])

    assert isinstance(error.value, UserError)
    assert "\n" not in str(error.value)
    assert files_of(tmp_path) == ["thing/v1/thing"]


def test_kedro_does_not_change_a_user_error(tmp_path):
    class Report(AtomicTextDataset):
        def save(self, data):
            with atomic_save(Path(self._get_save_path())):
                raise UserError(data)

    with pytest.raises(UserError, match=r"^the batch is damaged$"):
        version(Report, tmp_path, save="v1").save("the batch is damaged")


KILLED_PROCESS = """
import os, signal, sys
from pathlib import Path

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

folder, moment = Path(sys.argv[1]), sys.argv[2]
from kedro.io.core import Version
from selfie_pipeline.datasets.text import AtomicJSONDataset

class Bomb(dict):
    def items(self):
        yield "a", 1
        die()

if moment == "before the rename":
    Path.replace = die
data = {"a": 1} if moment == "before the rename" else {"a": 1, "b": Bomb(c=2)}
AtomicJSONDataset(filepath=str(folder / "thing"), version=Version(None, "v2"),
         fs_args={"open_args_save": {"mode": "w", "buffering": 1}}).save(data)
"""


@pytest.mark.parametrize("moment", ["in the middle", "before the rename"])
def test_a_killed_process_leaves_the_version_before(moment, tmp_path):
    version(AtomicJSONDataset, tmp_path, save="v1").save({"a": 0})

    process = subprocess.run([sys.executable, "-c", KILLED_PROCESS, tmp_path, moment], check=False)

    assert process.returncode == -signal.SIGKILL
    assert files_of(tmp_path) == ["thing/v1/thing", "thing/v2/.partial-thing"]
    assert version(AtomicJSONDataset, tmp_path).load() == {"a": 0}
    assert version(AtomicJSONDataset, tmp_path).list_versions(full_path=False) == ["v1"]
    version(AtomicJSONDataset, tmp_path, save="v2").save({"a": 2})
    assert files_of(tmp_path) == ["thing/v1/thing", "thing/v2/thing"]


def test_an_error_that_is_not_the_systems_keeps_its_type(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_save(tmp_path / "thing"):
        1 / 0  # noqa: B018


def test_only_a_local_disk_is_accepted():
    dataset = AtomicTextDataset(filepath="memory://thing")

    with pytest.raises(CatalogError, match=r"memory:.*not on a local disk"):
        dataset.save("text")


def test_an_unversioned_file_at_the_path_of_the_versions_is_explained(tmp_path):
    (tmp_path / "thing").write_text("saved before it was versioned")

    with pytest.raises(DatasetError, match=r"already exists|File exists"):
        version(AtomicTextDataset, tmp_path, save="v1").save("text")


def test_the_catalog_finds_the_types_and_versions(tmp_path):
    type_name = "selfie_pipeline.datasets.tables.AtomicCSVDataset"
    entry = {"type": type_name, "filepath": str(tmp_path / "thing"), "versioned": True}
    old = DataCatalog.from_config({"table": entry}, save_version="v1")
    new = DataCatalog.from_config({"table": entry}, save_version="v2")
    old.save("table", TABLE)
    new.save("table", LARGER_TABLE)

    pinned = DataCatalog.from_config({"table": entry}, load_versions={"table": "v1"})

    assert pinned.load("table").equals(TABLE)
    assert new.load("table").equals(LARGER_TABLE)


@pytest.mark.parametrize(
    ("dataset_type", "name"),
    [
        (AtomicCSVDataset, "TablePreview"),
        (AtomicParquetDataset, "TablePreview"),
        (AtomicJSONDataset, "JSONPreview"),
        (AtomicTextDataset, "TablePreview"),
        (AtomicFigureDataset, "ImagePreview"),
    ],
)
def test_kedro_viz_can_preview(dataset_type, name, tmp_path):
    dataset = version(dataset_type, tmp_path, save="v1")
    dataset.save(VALUES[dataset_type][0])

    annotation = signature(dataset.preview).return_annotation

    assert getattr(annotation, "__name__", annotation) == name
    assert dataset.preview()
