"""Tests of the lineage of a classifier."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from selfie_pipeline.config import UserError
from selfie_pipeline.training.lineage import pretraining_lineage
from selfie_pipeline.weights import Weights

MADE: dict[str, Any] = {
    "configuration": {"pretrain": {"steps": 4}, "model": {"width": 8}},
    "data": "a fingerprint",
    "pretraining_images": 40,
    "device": "a processor",
}


def test_it_has_what_the_encoder_determines() -> None:
    encoder = Weights({"w": torch.ones(1)}, MADE)

    assert pretraining_lineage(encoder) == {
        "encoder": encoder.digest(),
        "pretraining_images": 40,
        "configuration": {"pretrain": {"steps": 4}, "pretrained_on": "a fingerprint"},
    }


@pytest.mark.parametrize(
    "provenance",
    [
        {},
        {key: MADE[key] for key in MADE if key != "pretraining_images"},
        MADE | {"configuration": {}},
        MADE | {"configuration": None},
        MADE | {"configuration": []},
    ],
    ids=str,
)
def test_a_provenance_that_lacks_it_is_one_line(provenance: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="does not describe its pretraining") as caught:
        pretraining_lineage(Weights({"w": torch.ones(1)}, provenance))

    assert "\n" not in str(caught.value)
