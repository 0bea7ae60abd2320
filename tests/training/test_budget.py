import logging

import pandas as pd
import pytest

from selfie_pipeline.config import UserError
from selfie_pipeline.training import budget
from selfie_pipeline.training.budget import (
    EPOCHS,
    choose_steps,
    format_plan,
    load_plan,
    make_plan,
    plan_file,
    save_plan,
)
from selfie_pipeline.training.device import Device
from selfie_pipeline.training.speed import Speed

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


def find_file(folder, config, data="data", **trainings):
    return plan_file(folder, config, data, trainings or {"pretrain": 1, "finetune": 2})


def test_a_saved_plan_is_loaded_and_no_other(config, make_config, tmp_path):
    plan = choose(config)
    file = find_file(tmp_path, config)
    assert load_plan(file) == {}

    save_plan(file, plan)

    assert load_plan(file) == plan
    for same in ({"seed": 9}, {"pretrain.seed": 9}, {"pretrain.weights": "net.safetensors"}):
        assert find_file(tmp_path, make_config(RECIPES | same)) == file
    others = [
        {"budget": "20min"},
        {"pretrain.batch_size": 12},
        {"finetune.momentum": 0.5},
        {"model.width": 16},
        {"labeled_frac": 0.2},
    ]
    files = {find_file(tmp_path, make_config(RECIPES | other)) for other in others}
    assert len(files | {file, find_file(tmp_path, config, "other data")}) == len(others) + 2
    assert all(load_plan(other) == {} for other in files)


@pytest.mark.parametrize("content", ['{"finetune": {"st', '{"finetune": {"steps": "many"}}'])
def test_a_damaged_plan_is_measured_anew(config, tmp_path, caplog, content):
    file = find_file(tmp_path, config)
    file.write_text(content)

    assert load_plan(file) == {}
    assert caplog.text.count(f"{file} is not used: ") == 1


def test_a_plan_for_more_trainings_of_each_kind_is_used(config, tmp_path):
    plan = choose(config)
    save_plan(find_file(tmp_path, config, pretrain=1, finetune=2), plan)

    def load(**trainings):
        return load_plan(find_file(tmp_path, config, **trainings))

    assert load(pretrain=1) == load(finetune=2) == load(finetune=1) == plan
    assert load(finetune=3) == load(pretrain=2) == {}
    save_plan(find_file(tmp_path, config, pretrain=1), {"pretrain": plan["pretrain"]})
    assert load(pretrain=1) == {"pretrain": plan["pretrain"]}
    assert load(finetune=1) == plan


def test_a_plan_is_shown_as_parameters():
    plan = {"pretrain": {"steps": 7, "warmup_steps": 1}, "finetune": {"steps": 3}}

    assert format_plan(plan) == "pretrain.steps=7,pretrain.warmup_steps=1,finetune.steps=3"


def test_time_is_left_for_two_scorings_of_the_held_out_samples_and_one_of_the_test_split(
    config, monkeypatch, caplog
):
    monkeypatch.setattr(budget, "open_windows", lambda *_: None)
    speed = Speed(STEP_S, first_s={"pretrain": 0.0, "finetune": 0.0}, score_s=1.0, cpu_share=1.0)
    monkeypatch.setattr(budget, "measure_speed", lambda *_: speed)  # of a known machine
    samples = pd.DataFrame({"split": ["train"] * 20 + ["test"] * 7})
    caplog.set_level(logging.INFO)

    make_plan(config, BOTH, samples, None, lambda: 0.0, report=False)

    scored = 7 + 2 * (20 - 2)  # 2 of 20 are labeled
    assert f"{2 * scored} s for all else" in caplog.text


@pytest.mark.parametrize(("kind", "times"), [("cpu", 1), ("cuda", 2)])
def test_on_a_gpu_only_the_second_measurement_counts(config, monkeypatch, caplog, kind, times):
    found = iter([8.0, 1.0][-times:])

    def measure(*_arguments, **_limit):
        return Speed(STEP_S, dict.fromkeys(STEP_S, next(found)), score_s=0.0, cpu_share=1.0)

    monkeypatch.setattr(budget, "open_windows", lambda *_: None)
    monkeypatch.setattr(budget, "find_device", lambda _: Device(kind, bf16=False))
    monkeypatch.setattr(budget, "measure_speed", measure)
    samples = pd.DataFrame({"split": ["train"] * 20 + ["test"] * 7})
    caplog.set_level(logging.INFO)

    make_plan(config, BOTH, samples, None, lambda: 0.0, report=False)

    assert "3 s for all else" in caplog.text  # a second for each training
    assert next(found, None) is None
