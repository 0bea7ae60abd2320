"""Node of the pipeline `ingest`."""

from __future__ import annotations

import pandas as pd

from selfie_pipeline.config import DataConfig
from selfie_pipeline.project import resolve_path
from selfie_pipeline.provenance import DATA_PARAMETERS, LABEL_TABLES, hash_file
from selfie_pipeline.sources import check_samples, count_samples, open_source


def list_samples(data: DataConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """List the samples, check them, and count them by class and split.

    Returns:
        The samples, one row per sample, with the parameters of the data and the hashes of the
        label tables among their attributes; and the counts, one row per class.
    """
    tables = {path: hash_file(resolve_path(path)) for path in data.labels or []}
    source = open_source(data, resolve_path(""))
    samples = source.samples()
    check_samples(samples, source.classes)
    counts = count_samples(samples)
    samples.attrs[DATA_PARAMETERS] = data.model_dump(mode="json") | {LABEL_TABLES: tables}
    return samples.reset_index(), counts
