from __future__ import annotations

from collections.abc import Callable

import pytest

from selfie_pipeline.config import Config, UserError
from selfie_pipeline.plan import plan

MakeConfig = Callable[..., Config]


def test_a_pretraining(make_config: MakeConfig) -> None:
    config = make_config({"pretrain.steps": 1200, "pretrain.batch_size": 64, "pretrain.seed": 3})

    data, network, device, pretrain = plan(config, {"encoder", "pretrain_history"})

    assert data == (
        "data: digits, images of 32 × 32 pixels, 4 × 4 patches of 8, of which 4 are masked"
    )
    assert network == "network: stages of 1-1-1-1 blocks, width 8"
    assert device.endswith("threads, fp32")
    assert pretrain == (
        "pretrain: 1,200 steps of 64 images, peak learning rate "
        f"{config.pretrain.peak_learning_rate:g}, on all images, seed 3"
    )


@pytest.mark.parametrize(
    ("outputs", "arms"),
    [
        ({"selfie_classifier"}, "from the encoder"),
        ({"supervised_classifier"}, "from scratch"),
        ({"selfie_classifier", "supervised_classifier"}, "from the encoder and from scratch"),
    ],
)
def test_a_finetuning(make_config: MakeConfig, outputs: set[str], arms: str) -> None:
    config = make_config({"labeled_frac": 0.05, "seed": 7})

    line = plan(config, outputs)[-1]

    assert line.startswith(f"finetune {arms}: {config.finetune.steps} steps of ")
    assert line.endswith("on 5 % of the labels, seed 7")


def test_an_experiment(make_config: MakeConfig) -> None:
    config = make_config({"experiment.labeled_fracs": [0.05, 1.0], "experiment.seeds": [0, 1, 2]})

    line = plan(config, {"experiment_cells"})[-1]

    assert line.startswith("experiment: 12 cells: supervised, selfie; 5, 100 % of the labels; ")


def test_a_tuning(make_config: MakeConfig) -> None:
    line = plan(make_config(), {"tuning_trials"})[-1]

    assert line.startswith("tune: 2 trials each of supervised, selfie at 10 % of the labels, over ")


def test_nothing_of_what_is_not_done(make_config: MakeConfig) -> None:
    assert len(plan(make_config(), {"samples", "sample_counts"})) == 1


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="there is a GPU")
def test_a_device_that_is_not_there(make_config: MakeConfig) -> None:
    with pytest.raises(UserError, match="torch sees no GPU"):
        plan(make_config({"compute.accelerator": "gpu"}), {"encoder"})
