"""The learning rate over a training."""

from __future__ import annotations

import math

from selfie_pipeline.config import TrainingConfig


def learning_rate_factor(step: int, recipe: TrainingConfig) -> float:
    """Share of the peak learning rate at a step.

    Linear warm-up, then "decay in a cosine shape" (paper, "Experiments") to zero at the last step.

    Args:
        step: Steps done before this one, from 0.
        recipe: For `warmup_steps` and `steps`.

    Returns:
        A number in [0, 1].
    """
    if step < recipe.warmup_steps:
        return (step + 1) / (recipe.warmup_steps + 1)
    progress = (step - recipe.warmup_steps) / (recipe.steps - recipe.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
