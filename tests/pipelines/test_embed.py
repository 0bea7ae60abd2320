"""Tests of the pipeline `embed` through the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from selfie_pipeline.config import Config, UserError
from selfie_pipeline.models.selfie import Selfie
from selfie_pipeline.pipelines.embed.nodes import load_encoder
from selfie_pipeline.weights import Weights

MakeConfig = Callable[..., Config]


def test_a_provenance_of_another_network_is_refused_in_one_line(make_config: MakeConfig) -> None:
    config = make_config()
    tensors = Selfie(config.model, config.patch).state_dict()
    model, patch = config.model.model_dump(), config.patch.model_dump()

    def load(configuration: Any) -> Selfie:
        weights = Weights(tensors, {"configuration": configuration})
        return load_encoder(weights, config.patch, config.embed)

    assert load({"model": model, "patch": patch}).state_dict().keys() == tensors.keys()
    for configuration in (
        None,
        [],
        {"model": model},
        {"model": model | {"width": 16}, "patch": patch},
        {"model": model | {"width": -1}, "patch": patch},
        {"model": "large", "patch": patch},
    ):
        with pytest.raises(UserError, match="does not describe its network") as caught:
            load(configuration)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layer", ["stage3", "u"])
def test_every_sample_has_a_vector(finished: Any, layer: str) -> None:
    finished.succeed(
        "--pipeline=embed", f"--params=embed.layer={layer},embed.map=pca,embed.points=200"
    )

    table, samples = finished.load("embeddings"), finished.load("usable_samples")
    names = ["sample", "split", "label", "class_name"]
    assert list(table) == [*names, "vector"]
    pd.testing.assert_frame_equal(table[names], samples[names])
    vectors = np.stack(table["vector"].to_list())
    assert vectors.shape == (1797, 128)
    assert vectors.dtype == np.float32
    assert (vectors.std(axis=0) > 0).any()
    (picture,) = (finished.path / "data/08_reporting").rglob("embedding_map.png/*/*.png")
    with Image.open(picture) as image:
        assert image.width > 500


def test_the_scores_have_their_provenance(finished: Any) -> None:
    finished.succeed("--pipeline=embed", "--params=embed.map=pca")

    found = finished.load("embedding_scores")
    assert (found["layer"], found["dimensions"]) == ("stage3", 128)
    assert found["provenance"]["encoder"] == finished.load("encoder").digest()
    assert found["provenance"]["data"] == finished.load("patch_grids").fingerprint
    scores = found["scores"]
    assert (scores["train_samples"], scores["test_samples"], scores["classes"]) == (1257, 540, 10)
    assert scores["knn"]["accuracy"] > 0.3  # even after six steps, P distinguishes digits
    assert scores["linear_probe"]["accuracy"] > 0.5


def test_unlabeled_images_are_embedded(fresh: Any, tmp_path: Path) -> None:
    folder = tmp_path / "raw/unlabeled"
    folder.mkdir(parents=True)
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    params = f"data.source=image_folder,data.folder={tmp_path / 'raw'}"

    fresh.succeed("--pipelines=ingest,patch,pretrain,embed", f"--params={params}")

    assert fresh.load("embedding_scores", params)["scores"] is None
    assert fresh.load("embeddings", params)["label"].tolist() == [-1] * 6


def test_u_of_another_grid_is_refused_in_one_line(finished: Any) -> None:
    params = "patch.patch_size=16,patch.targets=2"
    finished.succeed("--pipeline=patch", f"--params={params}")

    error = finished.refuse("--pipeline=embed", f"--params={params},embed.layer=u")
    finished.succeed("--pipeline=embed", f"--params={params},embed.map=pca")

    assert "embed.layer = u, but the encoder was pretrained with 4 × 4 patches, and" in error
