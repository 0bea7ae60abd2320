"""Layers of the catalog, which Kedro-Viz shows only if they can be ordered."""

from __future__ import annotations

from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from kedro.config import OmegaConfigLoader
from kedro.framework.project import settings
from kedro.framework.startup import bootstrap_project
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from selfie_pipeline.pipeline_registry import PIPELINE_NAMES, create_pipeline

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def catalog() -> DataCatalog:
    bootstrap_project(PROJECT)
    loader = OmegaConfigLoader(str(PROJECT / "conf"), env="base", **settings.CONFIG_LOADER_ARGS)
    return DataCatalog.from_config(loader["catalog"])


def get_layer(catalog: DataCatalog, name: str) -> str | None:
    metadata = getattr(catalog.get(name, fallback_to_runtime_pattern=True), "metadata", None) or {}
    layer: str | None = metadata.get("kedro-viz", {}).get("layer")
    return layer


def find_dependencies(catalog: DataCatalog, pipeline: Pipeline) -> dict[str, set[str]]:
    """Return the layers that each layer depends on, including by entries without a layer."""
    inputs: dict[str, set[str]] = {}
    for node in pipeline.nodes:
        layers = {layer for name in node.inputs if (layer := get_layer(catalog, name))}
        for output in node.outputs:
            inputs.setdefault(get_layer(catalog, output) or output, set()).update(layers)
    return {layer: others - {layer} for layer, others in inputs.items()}


def test_every_catalog_entry_has_a_layer(catalog: DataCatalog) -> None:
    names = set().union(*(pipeline.datasets() for pipeline in map(create_pipeline, PIPELINE_NAMES)))
    names = {name for name in names if not name.startswith("param") and name != "project"}

    assert [name for name in sorted(names) if get_layer(catalog, name) is None] == []


def test_no_layer_depends_on_itself(catalog: DataCatalog) -> None:
    """Kedro-Viz would show no layers otherwise."""
    for pipeline in map(create_pipeline, PIPELINE_NAMES):
        TopologicalSorter(find_dependencies(catalog, pipeline)).prepare()  # raises for a cycle
