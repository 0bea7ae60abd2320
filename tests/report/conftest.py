"""Fixtures of the report's tests."""

from __future__ import annotations

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
