"""Stochastic gradient descent with linear warm-up and cosine decay."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from selfie_pipeline.config import TrainingConfig


def build_optimizer(groups: list[dict[str, Any]], recipe: TrainingConfig) -> torch.optim.SGD:
    """Build SGD with Nesterov momentum and L2 (paper, "Experiments"), the latter on every weight.

    Args:
        groups: Parameter groups; `lr` is a group's own peak learning rate, if it has one.
        recipe: For the peak learning rate, the momentum and the weight decay.
    """
    return torch.optim.SGD(
        [{"peak_lr": group.get("lr", recipe.peak_learning_rate), **group} for group in groups],
        lr=recipe.peak_learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.SGD, step: int, recipe: TrainingConfig) -> None:
    """Set every group's learning rate for a step, counted from 0."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * learning_rate_factor(step, recipe)


def learning_rate_factor(step: int, recipe: TrainingConfig) -> float:
    """Return the share of the peak learning rate at a step.

    After a warm-up, "decay in a cosine shape" (paper, "Experiments"). That the warm-up is linear
    and the decay ends at zero, after the last step, is inferred.

    Args:
        step: Steps completed before this one, from 0 to `steps`.
        recipe: For `warmup_steps` and `steps`.

    Returns:
        A number in [0, 1].
    """
    if step < recipe.warmup_steps:
        return (step + 1) / (recipe.warmup_steps + 1)
    progress = (step - recipe.warmup_steps) / (recipe.steps - recipe.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))


def clip_gradients(network: nn.Module, recipe: TrainingConfig) -> None:
    """Limit the norm of the gradient over all weights to `clip_norm`, if there is a limit."""
    if recipe.clip_norm is not None:
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
