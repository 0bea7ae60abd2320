"""Tests of the state of a training and of the error if its loss is not finite."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from selfie_pipeline.config import Config
from selfie_pipeline.models.selfie import Selfie
from selfie_pipeline.training.data.batches import WindowReader
from selfie_pipeline.training.state import NonFiniteLossError, TrainingState
from selfie_pipeline.training.tasks import PretrainingTask


@pytest.fixture
def state(
    make_config: Callable[..., Config], make_images: Callable[..., WindowReader]
) -> TrainingState:
    config = make_config({"pretrain.peak_learning_rate": 0.1, "pretrain.warmup_steps": 0})
    network = Selfie(config.model, config.patch)
    return TrainingState(PretrainingTask(network, config.pretrain, make_images(config)))


@pytest.mark.parametrize(
    ("count", "named"),
    [(1, "0;"), (8, "0, 1, 2, 3, 4, 5, 6, 7;"), (11, "0, 1, 2, 3, 4, 5, 6, 7 and 3 more;")],
)
def test_the_error_names_the_first_samples_and_counts_the_others(
    state: TrainingState, count: int, named: str
) -> None:
    state.record(torch.tensor(np.inf), torch.tensor(0.5), torch.arange(count))

    with pytest.raises(NonFiniteLossError) as caught:
        state.end_step()

    message = str(caught.value)
    assert message.startswith(f"the loss is inf at step 1, learning rate 0.1, samples {named}")


def test_scores_are_in_the_order_of_their_names(state: TrainingState) -> None:
    """As they come out of a checkpoint: a resumed training results in the same file."""
    state.measured = {"late": 0.5, "early": 0.25}

    assert list(state.result().measured.items()) == [("early", 0.25), ("late", 0.5)]
