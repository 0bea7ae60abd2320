"""Tests of the previews of tables."""

import numpy as np
import pandas as pd

from selfie_pipeline.datasets.tables import AtomicParquetDataset


def test_the_preview_of_vectors_is_text(tmp_path):
    dataset = AtomicParquetDataset(filepath=str(tmp_path / "vectors.parquet"))
    dataset.save(pd.DataFrame({"sample": [7], "vector": [np.arange(64) / 4]}))

    assert dataset.preview()["data"] == [[7, "0, 0.25, 0.5 … (64 numbers)"]]
