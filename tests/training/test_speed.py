import signal

import numpy as np
import pandas as pd
import pytest
import torch

from selfie_pipeline.training import speed as measuring
from selfie_pipeline.training.signals import TrainingInterrupted
from selfie_pipeline.training.speed import measure_speed
from selfie_pipeline.training.state import TrainingState


@pytest.mark.parametrize("kinds", [["pretrain"], ["finetune"], ["pretrain", "finetune"]])
def test_steps_of_each_kind_are_timed_and_nothing_else_changes(
    make_config, make_images, digits, kinds
):
    config = make_config({"pretrain.batch_size": 8, "finetune.batch_size": 8})
    split = np.where(np.arange(len(digits[1])) < 100, "test", "train")
    samples = pd.DataFrame(
        {"sample": np.arange(len(digits[1])), "split": split, "label": digits[1]}
    )
    images = make_images(config)
    before = torch.get_rng_state()

    speed = measure_speed(config, kinds, samples, images, limit_s=0.0)

    assert speed.step_s.keys() == speed.first_s.keys() == set(kinds)
    assert all(seconds > 0 for seconds in speed.step_s.values())
    assert all(seconds >= 0 for seconds in speed.first_s.values())
    assert 0 < speed.cpu_share <= 1
    assert (speed.score_s > 0) == ("finetune" in kinds)
    assert min(images.grids.requested) >= 100  # none of the test split
    assert torch.equal(torch.get_rng_state(), before)


def run_steps(watch):
    with watch:
        for step in range(1, 100):
            watch.update(step, None)


@pytest.mark.parametrize("step", [2, 4], ids=["a step", "the last step"])
def test_ctrl_c_ends_the_measurement_and_speaks_of_no_steps(
    make_config, make_images, monkeypatch, step
):
    end_step = TrainingState.end_step

    def interrupted_end_step(state):
        end_step(state)
        if state.step == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(TrainingState, "end_step", interrupted_end_step)
    samples = pd.DataFrame({"sample": np.arange(20), "split": "train", "label": 0})
    config = make_config()

    with pytest.raises(TrainingInterrupted, match=r"^stopped by SIGINT while .* was measured"):
        measure_speed(config, ["pretrain"], samples, make_images(config), limit_s=0.0)


def test_the_first_two_steps_are_timed_apart_and_the_others_until_the_limit(monkeypatch):
    """They take 5 s and 1 s, as on a GPU, and each of the others 0.5 s."""
    now = iter([10.0, 15.0, *np.arange(16.0, 30.0, 0.5)])
    monkeypatch.setattr(measuring.time, "monotonic", lambda: next(now))
    watch = measuring._Stopwatch(limit_s=2.0)

    with pytest.raises(measuring._MeasuredError):
        run_steps(watch)

    assert len(watch.times) == 1 + 2 + 4  # four after the first two take two seconds
    assert watch.read() == (0.5, 5.0)


def test_a_short_measurement_has_four_steps(monkeypatch):
    now = iter(np.arange(0.0, 10.0))
    monkeypatch.setattr(measuring.time, "monotonic", lambda: next(now))
    watch = measuring._Stopwatch(limit_s=0.0)

    with pytest.raises(measuring._MeasuredError):
        run_steps(watch)

    assert len(watch.times) == 1 + 4
    assert watch.read() == (1.0, 0.0)
