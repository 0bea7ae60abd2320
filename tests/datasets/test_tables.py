"""Tests of tables: their previews and checksums."""

import numpy as np
import pandas as pd
import pytest
from kedro.io.core import DatasetError

from selfie_pipeline.datasets.tables import AtomicParquetDataset


def test_the_preview_of_vectors_is_text(tmp_path):
    dataset = AtomicParquetDataset(filepath=str(tmp_path / "vectors.parquet"))
    dataset.save(pd.DataFrame({"sample": [7], "vector": [np.arange(64) / 4]}))

    assert dataset.preview()["data"] == [[7, "0, 0.25, 0.5 … (64 numbers)"]]


def test_a_flipped_bit_of_a_parquet_file_is_found(tmp_path):
    path = tmp_path / "table.parquet"
    dataset = AtomicParquetDataset(filepath=str(path))
    dataset.save(pd.DataFrame({"label": np.arange(1000)}))
    content = path.read_bytes()
    path.write_bytes(content[:2000] + bytes([content[2000] ^ 1]) + content[2001:])

    with pytest.raises(DatasetError, match="CRC checksum"):
        dataset.load()
