"""Results and puzzles as other parts hand them over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

MakeCells = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def make_cells() -> MakeCells:
    """One cell a seed: ``make_cells("selfie", {0: 0.8, 1: 0.9})``, other keys by name."""

    def make(arm: str, accuracies: dict[int, float], **other: Any) -> list[dict[str, Any]]:
        common = {
            "data": "digits",
            "network": "ResNet 1-1-1-1, width 16",
            "arm": arm,
            "labeled_frac": 0.05,
            "labels": 63,
            "loss": 0.5,
            "test_samples": 540,
            "configuration": "present",
            "version": "2026-11-22T06.00.00.000Z",
            "provenance": {"device": "a processor", "configuration": {"model": {"width": 16}}},
        }
        return [common | {"seed": s, "accuracy": a} | other for s, a in accuracies.items()]

    return make


@pytest.fixture
def four_seeds(make_cells: MakeCells) -> list[dict[str, Any]]:
    """Differences of 4, 6, 8 and 6 points."""
    return [
        *make_cells("supervised", {0: 0.78, 1: 0.80, 2: 0.79, 3: 0.81}),
        *make_cells("selfie", {0: 0.82, 1: 0.86, 2: 0.87, 3: 0.87}),
    ]


@pytest.fixture
def one_seed(make_cells: MakeCells) -> list[dict[str, Any]]:
    return [*make_cells("supervised", {0: 0.78}), *make_cells("selfie", {0: 0.82})]


@pytest.fixture
def history() -> pd.DataFrame:
    steps = np.arange(10, 60, 10)
    return pd.DataFrame(
        {
            "step": steps,
            "loss": [1.38, 1.1, 0.8, 0.6, 0.5],
            "accuracy": [0.25, 0.5, 0.7, 0.8, 0.86],
            "learning_rate": 0.1,
        }
    )
