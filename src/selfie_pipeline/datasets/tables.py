"""Dataset types of tables: CSV and Parquet."""

from __future__ import annotations

import csv
from typing import Any

import numpy as np
import pandas as pd
from kedro_datasets._typing import TablePreview
from kedro_datasets.pandas.csv_dataset import CSVDataset
from kedro_datasets.pandas.parquet_dataset import ParquetDataset

from selfie_pipeline.datasets.atomic import AtomicSaveMixin


class AtomicCSVDataset(AtomicSaveMixin, CSVDataset):
    """A pandas table as a CSV file in UTF-8."""

    # pandas reads UTF-8 regardless of the locale, so it must be written as such.
    DEFAULT_FS_ARGS = {"open_args_save": {"mode": "w", "encoding": "utf-8", "newline": ""}}  # noqa: RUF012

    def _save_settings(self, data: pd.DataFrame) -> dict[str, Any]:
        """Quote all texts if a carriage return is in one, which Python's csv leaves unquoted."""
        columns = data.select_dtypes(["object", "string"])
        if not any(
            columns[name].astype(str).str.contains("\r", regex=False).any() for name in columns
        ):
            return {}
        return {"_save_args": self._save_args | {"quoting": csv.QUOTE_NONNUMERIC}}


class AtomicParquetDataset(AtomicSaveMixin, ParquetDataset):
    """A pandas table as a Parquet file, whose pages have checksums that are checked."""

    DEFAULT_SAVE_ARGS = {"write_page_checksum": True}  # noqa: RUF012
    DEFAULT_LOAD_ARGS = {"page_checksum_verification": True}  # noqa: RUF012

    def preview(self, nrows: int = 5) -> TablePreview:
        """Return the first rows, with vectors abbreviated to text, which Kedro-Viz can display."""
        preview = super().preview(nrows)
        preview["data"] = [[_abbreviate(value) for value in row] for row in preview["data"]]
        return preview


def _abbreviate(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    first = ", ".join(f"{number:.3g}" for number in value[:3])
    return f"{first} … ({len(value)} numbers)"
