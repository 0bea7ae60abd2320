import logging

import pytest

from selfie_pipeline.config import UserError
from selfie_pipeline.training.budget import (
    EPOCHS,
    choose_steps,
    format_plan,
    load_plan,
    plan_file,
    save_plan,
)

RECIPES = {
    "budget": "10min",
    "pretrain.steps": 1000,
    "pretrain.warmup_steps": 100,
    "pretrain.log_every": 10,
    "finetune.steps": 200,
    "finetune.batch_size": 32,
    "finetune.warmup_steps": 20,
    "finetune.log_every": 10,
}
BOTH = {"pretrain": 1, "finetune": 2}
STEP_S = {"pretrain": 0.5, "finetune": 0.25}


@pytest.fixture
def config(make_config):
    return make_config(RECIPES)


def choose(config, trainings=BOTH, labels=10, left_s=500.0):
    return choose_steps(config, trainings, labels, STEP_S, left_s)


def test_finetuning_has_the_steps_of_the_recipe_and_pretraining_the_rest_of_the_time(config):
    plan = choose(config)

    assert plan["finetune"] == {"steps": 200, "warmup_steps": 20}
    assert plan["pretrain"]["steps"] == (500 - 2 * 200 * 0.25) / 0.5


def test_many_labels_get_as_many_passes_as_few(config):
    plan = choose(config, labels=64, left_s=2000.0)

    assert plan["finetune"]["steps"] == EPOCHS * 64 / 32


def test_finetuning_has_half_of_a_short_time_and_the_line_says_what_it_lacks(config, caplog):
    caplog.set_level(logging.INFO)

    plan = choose(config, left_s=60.0)

    assert plan["finetune"]["steps"] == 30 / (2 * 0.25)
    assert plan["pretrain"]["steps"] == 30 / 0.5
    assert caplog.messages == [
        "budget of 10min: pretrain.steps=60,pretrain.warmup_steps=6,finetune.steps=60,"
        "finetune.warmup_steps=6 (pretrain 0.5 s a step, finetune 0.25 s a step; 540 s for all "
        "else); finetuning may need 200 steps to converge: budget=13min"
    ]


def test_a_longer_training_than_the_recipes_keeps_its_warm_up(config):
    assert choose(config, left_s=5000.0)["pretrain"]["warmup_steps"] == 100


def test_pretraining_alone_has_all_the_time(config):
    assert choose(config, {"pretrain": 1})["pretrain"]["steps"] == 500 / 0.5


@pytest.mark.parametrize(("left_s", "steps"), [(500.0, 200), (10.0, 40)])
def test_finetuning_alone_has_all_the_time_that_it_needs(config, left_s, steps):
    assert choose(config, {"finetune": 1}, left_s=left_s)["finetune"]["steps"] == steps


@pytest.mark.parametrize("left_s", [-3.0, 9.5])
def test_too_short_a_budget_is_refused_with_one_that_suffices(config, left_s):
    enough_s = 600 - left_s + 10

    with pytest.raises(UserError) as caught:
        choose(config, left_s=left_s)

    assert str(caught.value) == (
        f"budget = 10min is too short: {max(0, left_s):.0f} s of it are left for training; allowed "
        f"on this machine: about {enough_s + 0.5 * (left_s == 9.5):.0f}s or more"
    )
    assert choose(config, left_s=10.0)["pretrain"]["steps"] == 10


def test_a_saved_plan_is_loaded_and_no_other(config, make_config, tmp_path):
    plan = choose(config)
    file = plan_file(tmp_path, config, "data")
    assert load_plan(file) == {}

    save_plan(file, plan)

    assert load_plan(file) == plan
    assert plan_file(tmp_path, make_config(RECIPES | {"seed": 9}), "data") == file
    others = [
        {"budget": "20min"},
        {"pretrain.batch_size": 12},
        {"finetune.momentum": 0.5},
        {"model.width": 16},
        {"labeled_frac": 0.2},
    ]
    files = {plan_file(tmp_path, make_config(RECIPES | other), "data") for other in others}
    assert len(files | {file, plan_file(tmp_path, config, "other data")}) == len(others) + 2


def test_a_plan_is_shown_as_parameters():
    plan = {"pretrain": {"steps": 7, "warmup_steps": 1}, "finetune": {"steps": 3}}

    assert format_plan(plan) == "pretrain.steps=7,pretrain.warmup_steps=1,finetune.steps=3"
