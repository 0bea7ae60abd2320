from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from selfie_pipeline.config import Config, UserError
from selfie_pipeline.run_summary import summarise_run

MakeConfig = Callable[..., Config]


def test_pretraining(make_config: MakeConfig) -> None:
    config = make_config({"pretrain.steps": 1200, "pretrain.batch_size": 64, "pretrain.seed": 3})

    data, network, device, pretrain = summarise_run(config, {"encoder", "pretrain_history"})

    assert data == (
        "data: digits, images of 32 × 32 pixels, 4 × 4 patches of 8, of which 4 are masked"
    )
    assert network == "network: stages of 1-1-1-1 blocks, width 8"
    assert device.endswith("threads, fp32")
    assert pretrain == (
        "pretrain: 1,200 steps of 64 images, peak learning rate "
        f"{config.pretrain.peak_learning_rate:g}, on all images, seed 3"
    )


def test_steps_that_a_budget_will_set_are_not_said(make_config: MakeConfig) -> None:
    config = make_config({"pretrain.batch_size": 64})

    lines = summarise_run(config, {"encoder", "selfie_classifier"}, "8h")

    assert lines[-2].startswith("pretrain: by the budget of 8h, steps of 64 images, peak ")
    assert lines[-1].startswith("finetune from the encoder: by the budget of 8h, steps of ")


@pytest.mark.parametrize(
    ("outputs", "arms"),
    [
        ({"selfie_classifier"}, "from the encoder"),
        ({"supervised_classifier"}, "from scratch"),
        ({"selfie_classifier", "supervised_classifier"}, "from the encoder and from scratch"),
    ],
)
def test_finetuning(make_config: MakeConfig, outputs: set[str], arms: str) -> None:
    config = make_config({"labeled_frac": 0.05, "seed": 7})

    line = summarise_run(config, outputs)[-1]

    assert line.startswith(f"finetune {arms}: {config.finetune.steps} steps of ")
    assert line.endswith("on 5 % of the labels, seed 7")


def test_experiment(make_config: MakeConfig) -> None:
    config = make_config({"experiment.labeled_fracs": [0.05, 1.0], "experiment.seeds": [0, 1, 2]})

    line = summarise_run(config, {"experiment_cells"})[-1]

    assert line.startswith("experiment: 12 cells: supervised, selfie; 5, 100 % of the labels; ")


def test_steps_of_an_experiment_that_a_budget_will_set_are_not_said(
    make_config: MakeConfig,
) -> None:
    line = summarise_run(make_config(), {"experiment_cells"}, "1h")[-1]

    assert "each by the budget of 1h, steps of " in line


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ("local", r"device: \w+, 3 threads, fp32"),
        ("ray", r"device: a Ray cluster; here \w+, 3 threads, fp32"),
    ],
)
@pytest.mark.parametrize("output", ["experiment_cells", "tuning_trials"])
def test_the_trainings_of_a_grid_have_their_own_threads(
    make_config: MakeConfig, output: str, engine: str, expected: str
) -> None:
    config = make_config(
        {"compute.engine": engine, "compute.workers": 4, "compute.cpus_per_cell": 3}
    )
    device = summarise_run(config, {output})[2]

    assert re.fullmatch(expected, device)


def test_tuning(make_config: MakeConfig) -> None:
    line = summarise_run(make_config(), {"tuning_trials"})[-1]

    assert line.startswith("tune: 2 trials each of supervised, selfie at 10 % of the labels, over ")


def test_there_are_no_lines_about_other_work(make_config: MakeConfig) -> None:
    assert len(summarise_run(make_config(), {"samples", "sample_counts"})) == 1


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="this machine has a GPU")
def test_a_missing_device(make_config: MakeConfig) -> None:
    with pytest.raises(UserError, match="torch sees no GPU"):
        summarise_run(make_config({"compute.accelerator": "gpu"}), {"encoder"})
