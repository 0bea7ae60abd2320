"""Tests of the lineage of a classifier."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pytest
import torch

from selfie_pipeline.config import UserError
from selfie_pipeline.training.lineage import (
    fingerprint_data,
    initial_weights_lineage,
    pretraining_lineage,
)
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


def test_the_start_is_an_encoder_or_given_weights_or_nothing() -> None:
    tensors = {"w": torch.ones(1)}
    encoder, given = Weights(tensors, MADE), Weights(tensors, {"weights": {"file": "w.pth"}})

    from_scratch = {"encoder": None, "pretraining_images": None, "configuration": {}}
    assert initial_weights_lineage(None) == from_scratch
    assert initial_weights_lineage(encoder) == pretraining_lineage(encoder)
    assert initial_weights_lineage(given) == from_scratch | {
        "configuration": {"weights": {"file": "w.pth"}}
    }


@dataclass
class StoredFive:
    """Five images, one of which is unreadable."""

    fingerprint: str = "a fingerprint"
    unreadable: dict[int, str] = field(default_factory=lambda: {3: "truncated"})

    def __len__(self) -> int:
        return 5


def test_the_fingerprint_tells_which_samples_were_dropped() -> None:
    def fingerprint(*usable: int) -> str:
        return fingerprint_data(StoredFive(), pd.DataFrame({"sample": usable}))

    assert fingerprint(0, 1, 2, 4) == "a fingerprint"  # an unreadable image can't be dropped
    assert len({fingerprint(0, 1, 2, 4), fingerprint(1, 2, 4), fingerprint(0, 1, 2)}) == 3
    assert fingerprint(4, 1, 2) == fingerprint(1, 2, 4)
