"""Node of the pipeline `ingest`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from kedro.utils import find_kedro_project

from selfie_pipeline.config import DataConfig
from selfie_pipeline.sources import Source, check_samples, count_samples, open_source


def open_raw(data: DataConfig) -> Source:
    """Open the data set, whose folder may be relative to the project."""
    project = find_kedro_project(Path.cwd()) or Path.cwd()
    return open_source(data, None if data.folder is None else project / data.folder)


def list_samples(data: DataConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """List the samples, check them, and count them by class and split.

    Returns:
        The samples, one row per sample, and the counts, one row per class.
    """
    source = open_raw(data)
    samples = source.samples()
    check_samples(samples, source.classes)
    return samples.reset_index(), count_samples(samples)
