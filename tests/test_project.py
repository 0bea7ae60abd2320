"""Tests of the project as an object; `tests/pipelines` tests the pipelines that it runs."""

from pathlib import Path

import pytest

from selfie_pipeline.project import _merge, resolve_path


def test_the_home_folder_is_expanded_in_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")

    assert resolve_path("~/photographs") == Path("/home/somebody/photographs")


def test_overrides_win_and_other_parameters_stay():
    base = {"seed": 3, "finetune": {"steps": 5, "batch_size": 8}, "arms": ["selfie"]}
    overrides = {"seed": 4, "finetune": {"steps": 6}, "pretrain": {"images": 100}}

    assert _merge(base, overrides) == {
        "seed": 4,
        "finetune": {"steps": 6, "batch_size": 8},
        "arms": ["selfie"],
        "pretrain": {"images": 100},
    }
    assert base["finetune"] == {"steps": 5, "batch_size": 8}
