import numpy as np
import pytest
import torch
from torch import nn

from selfie_pipeline.training.optimizer import (
    build_optimizer,
    clip_gradients,
    learning_rate_factor,
    set_learning_rate,
)


def factors(recipe):
    return np.array([learning_rate_factor(step, recipe) for step in range(recipe.steps + 1)])


@pytest.fixture
def recipe(make_config):
    def make(steps, warmup_steps):
        changes = {"finetune.steps": steps, "finetune.warmup_steps": warmup_steps}
        return make_config(changes).finetune

    return make


@pytest.mark.parametrize(("steps", "warmup"), [(1000, 100), (20, 1), (50, 49), (120_000, 100)])
def test_it_warms_up_linearly_then_falls_in_a_cosine_to_zero(recipe, steps, warmup):
    factor = factors(recipe(steps, warmup))
    rise, fall = factor[: warmup + 1], factor[warmup:]
    np.testing.assert_allclose(np.diff(rise), 1 / (warmup + 1))
    assert rise[0] == pytest.approx(1 / (warmup + 1))
    assert factor.argmax() == warmup
    assert factor[warmup] == 1
    assert (np.diff(fall) < 0).all()
    assert factor[-1] == pytest.approx(0, abs=1e-12)
    progress = np.arange(steps - warmup + 1) / (steps - warmup)
    np.testing.assert_allclose(fall, (1 + np.cos(np.pi * progress)) / 2, atol=1e-12)


def test_without_warm_up_it_starts_at_the_peak(recipe):
    assert factors(recipe(10, 0))[0] == 1


@pytest.fixture
def optimizer_steps(make_config):
    """Run an optimiser; record its parameter groups at every step."""

    def run(**changes):
        recipe = make_config({f"finetune.{key}": value for key, value in changes.items()}).finetune
        network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
        groups = [
            {"params": list(network[0].parameters())},
            {"params": list(network[1].parameters()), "lr": recipe.peak_learning_rate / 10},
        ]
        optimizer = build_optimizer(groups, recipe)
        seen = []
        for step in range(recipe.steps):
            set_learning_rate(optimizer, step, recipe)
            seen.append([dict(group) for group in optimizer.param_groups])
            for parameter in network.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        return recipe, network, seen

    return run


def test_fault_momentum_that_a_scheduler_cycles_away_from_0_9(optimizer_steps):
    _, _, seen = optimizer_steps(steps=50, warmup_steps=10)
    assert {group["momentum"] for groups in seen for group in groups} == {0.9}
    assert all(group["nesterov"] for groups in seen for group in groups)


def test_the_rate_of_each_step_is_the_peak_times_the_factor(optimizer_steps):
    recipe, _, seen = optimizer_steps(steps=50, warmup_steps=10, peak_learning_rate=0.3)
    for group, peak in enumerate((0.3, 0.03)):
        rates = [groups[group]["lr"] for groups in seen]
        np.testing.assert_allclose(rates, peak * factors(recipe)[:-1], rtol=1e-12, atol=1e-15)


def test_every_weight_is_trained_and_decays(optimizer_steps):
    _, network, seen = optimizer_steps(weight_decay=0.01)
    for groups in seen:
        assert {group["weight_decay"] for group in groups} == {0.01}
        inside = {id(parameter) for group in groups for parameter in group["params"]}
        assert inside == {id(parameter) for parameter in network.parameters()}


@pytest.mark.parametrize(("limit", "norm"), [(None, 10.0), (20.0, 10.0), (2.0, 2.0)])
def test_gradients_are_clipped_to_the_norm_over_all_weights(make_config, limit, norm):
    recipe = make_config({"finetune.clip_norm": limit}).finetune
    network = nn.Linear(10, 9)
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 10 / 99**0.5)

    clip_gradients(network, recipe)

    gradient = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    assert gradient.norm().item() == pytest.approx(norm, rel=1e-4)
