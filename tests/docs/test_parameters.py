"""docs/parameters.md is what config.py and conf/ say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from selfie_pipeline.config import Config

SCRIPT = Path(__file__).parents[2] / "docs" / "parameters.py"


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("parameters", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_not_stale(reference):
    committed = reference.PAGE.read_text("utf-8")
    assert committed == reference.render(), "run `make reference`"


def test_every_parameter_is_described(reference):
    silent = [
        prefix + name
        for prefix, model in reference.groups(Config)
        for name, field in model.model_fields.items()
        if not reference.is_group(field) and not reference.describe(model, name)
    ]
    assert silent == []


def test_a_parameter_is_told_with_its_limits_its_default_and_where_recipes_differ(reference):
    lines = reference.render().splitlines()
    assert (
        "| `patch.targets` | a whole number, 2 or more | `4` | Number of masked patches per "
        "image; its other patches are the context. |"
    ) in lines
    assert any(line.startswith("| `patch.targets` |") and "`13`" in line for line in lines)
    assert any(
        line.startswith("| `pretrain.images` | a whole number, 1 or more or null") for line in lines
    )
