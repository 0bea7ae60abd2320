"""Tests of collecting the results of many runs."""

import json

import pytest
from kedro.io import DataCatalog
from kedro.io.core import Version

from selfie_pipeline.config import UserError
from selfie_pipeline.datasets.atomic import AtomicJSONDataset
from selfie_pipeline.datasets.results import AllVersionsDataset


def save(folder, cell, version, metrics):
    path = folder / "digits" / cell / "metrics.json"
    AtomicJSONDataset(filepath=str(path), version=Version(None, version)).save(metrics)
    return path / version / "metrics.json"


@pytest.fixture
def results(tmp_path):
    return AllVersionsDataset(filepath=str(tmp_path / "digits/**/metrics.json"))


def test_all_versions_at_any_depth_are_read_in_the_order_of_paths(tmp_path, results):
    save(tmp_path, "selfie/seed-1", "2026-01-02", {"accuracy": 0.9})
    save(tmp_path, "selfie/seed-0", "2026-01-01", {"accuracy": 0.7})
    save(tmp_path, "selfie/seed-0", "2026-01-03", {"accuracy": 0.8})
    save(tmp_path, "images_100/selfie/seed-0", "2026-01-01", {"accuracy": 0.6})

    assert results.exists()
    assert results.load() == [
        {"accuracy": 0.6, "version": "2026-01-01"},
        {"accuracy": 0.7, "version": "2026-01-01"},
        {"accuracy": 0.8, "version": "2026-01-03"},
        {"accuracy": 0.9, "version": "2026-01-02"},
    ]


def test_a_partial_version_is_not_read(tmp_path, results):
    complete = save(tmp_path, "selfie/seed-0", "2026-01-01", {"accuracy": 0.7})
    partial = complete.parents[1] / "2026-01-02/.partial-metrics.json"
    partial.parent.mkdir()
    partial.write_text('{"accur')

    assert results.load() == [{"accuracy": 0.7, "version": "2026-01-01"}]


def test_no_results_yet_are_an_empty_list(results):
    assert results.load() == []
    assert not results.exists()


@pytest.mark.parametrize("content", ['{"accur', "[1]", b"\xff"])
def test_a_damaged_result_is_named(tmp_path, results, content):
    path = save(tmp_path, "selfie/seed-0", "2026-01-01", {})
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(UserError) as error:
        results.load()

    assert str(path) in str(error.value)


def test_it_is_read_only(results):
    with pytest.raises(UserError, match="read-only"):
        results.save([])


def test_the_catalog_finds_the_type(tmp_path):
    written = save(tmp_path, "selfie/seed-0", "2026-01-01", {"seed": 0})
    entry = {
        "type": "selfie_pipeline.datasets.results.AllVersionsDataset",
        "filepath": str(tmp_path / "digits/**/metrics.json"),
        "metadata": {"kedro-viz": {"layer": "reporting"}},
    }

    results = DataCatalog.from_config({"results": entry}).load("results")

    assert results == [json.loads(written.read_text()) | {"version": "2026-01-01"}]
