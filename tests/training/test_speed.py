import numpy as np
import pandas as pd
import pytest
import torch

from selfie_pipeline.training.speed import measure_speed


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
    assert 0 < speed.core <= 1
    assert (speed.score_s > 0) == ("finetune" in kinds)
    assert min(images.grids.requested) >= 100  # none of the test split
    assert torch.equal(torch.get_rng_state(), before)
