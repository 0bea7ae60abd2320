"""Tests of tables: their previews and checksums."""

import numpy as np
import pandas as pd
import pytest
from kedro.io.core import DatasetError

from selfie_pipeline.datasets.tables import AtomicCSVDataset, AtomicParquetDataset


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


@pytest.mark.parametrize("name", ["cat.jpg", "Icon\r", 'a\r"b",c\nd'])
def test_names_of_any_characters_survive_a_csv_file(tmp_path, name):
    table = pd.DataFrame({"file": [name, "dog.jpg"], "label": [1, 2], "probability": [0.5, 0.25]})
    dataset = AtomicCSVDataset(filepath=str(tmp_path / "a.csv"), save_args={"index": False})

    dataset.save(table)

    pd.testing.assert_frame_equal(dataset.load(), table)
    assert ("\r" in name) == ('"dog.jpg"' in (tmp_path / "a.csv").read_text())
