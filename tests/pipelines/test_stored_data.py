"""Data saved by an earlier commit: it loads, is reported, finetuned from, and resumed from.

`stored/c56b13a.tar.xz` has a project's data and recipe as commit c56b13a saved them: a complete
run, a tuning, and a pretraining that was interrupted after step 105.
"""

from __future__ import annotations

import logging
import shutil
import signal
import tarfile
from pathlib import Path
from typing import Any

import pytest

from selfie_pipeline.config import UserError
from selfie_pipeline.training.state import TrainingState

pytestmark = pytest.mark.filterwarnings(
    "ignore:Accessing the 'model_fields' attribute on the instance"  # caused by Kedro
)
STORED = Path(__file__).parents[1] / "stored" / "c56b13a.tar.xz"

FP32 = "compute.precision=fp32"
"""The precision of the stored data, which must also be used on a machine with bf16."""


@pytest.fixture
def stored(fresh: Any) -> Any:
    """Return a project with the stored data and recipe."""
    shutil.rmtree(fresh.path / "data")
    with tarfile.open(STORED) as archive:
        archive.extractall(fresh.path, filter="data")
    return fresh


def test_stored_versions_load(stored: Any) -> None:
    encoder = stored.load("encoder")
    classifier = stored.load("selfie_classifier", "labeled_frac=0.05")
    grids = stored.load("patch_grids")

    assert encoder.digest() == classifier.provenance["encoder"]
    assert encoder.provenance["data"] == grids.fingerprint
    assert len(grids) == len(stored.load("usable_samples")) == 1797
    assert [cell["arm"] for cell in stored.load("results")] == ["selfie", "supervised"]
    assert stored.load("best_settings")[0]["arm"] == "supervised"
    assert list(stored.load("pretrain_history")["step"]) == [2, 4, 6]


def test_stored_results_are_reported_and_used(stored: Any) -> None:
    stored.run("report", params=f"labeled_frac=0.05,{FP32}")
    assert list(stored.load("results_table")["arm"]) == ["supervised", "selfie"]
    before = stored.load("selfie_metrics", "labeled_frac=0.05")

    stored.run("finetune", params=f"labeled_frac=0.05,{FP32}")

    after = stored.load("selfie_metrics", "labeled_frac=0.05")
    assert after["configuration"] == before["configuration"]  # so that one table may contain both
    assert after["provenance"]["encoder"] == before["provenance"]["encoder"]
    assert after["accuracy"] == pytest.approx(before["accuracy"], abs=0.02)


def test_a_stored_checkpoint_is_resumed_from(
    stored: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "selfie_pipeline")
    original = TrainingState.end_step

    def end_step(state: TrainingState) -> None:
        original(state)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(TrainingState, "end_step", end_step)
    with pytest.raises(UserError, match="stopped by SIGTERM after step 106 of 3000"):
        stored.run("pretrain", params=f"pretrain.steps=3000,pretrain.checkpoint_every=100,{FP32}")

    assert "pretrain: resumes after step 105 of 3000" in caplog.messages
