"""Fixtures of the report's tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def history() -> pd.DataFrame:
    """Return a training history."""
    steps = np.arange(10, 60, 10)
    return pd.DataFrame(
        {
            "step": steps,
            "loss": [1.38, 1.1, 0.8, 0.6, 0.5],
            "accuracy": [0.25, 0.5, 0.7, 0.8, 0.86],
            "learning_rate": 0.1,
        }
    )


@pytest.fixture
def make_check() -> Callable[..., dict[str, Any]]:
    """Return a factory of checks of the data, in which images are in two splits."""

    def make(second: str = "test", exact: int = 3, near: int = 1200, **more: Any) -> dict[str, Any]:
        """Return a check of a training split, and another one that has some of its images."""
        split = {
            "images": 5000,
            "unreadable": 0,
            "classes": 10,
            "smallest_class": 500,
            "largest_class": 500,
            "copies": 0,
        }
        overlap = {
            "first": "train",
            "second": second,
            "pairs": exact + near,
            "exact": exact,
            "near": near,
            "second_images": 900,
            "other_class": 0,
        }
        return {
            "splits": [split | {"split": "train"} | more, split | {"split": second}],
            "overlaps": [overlap],
            "dropped": 0,
            "examples": [],
        }

    return make
