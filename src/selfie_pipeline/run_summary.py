"""Summary of a run, derived from its parameters and logged before its first node."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext

from selfie_pipeline.config import Config, TrainingConfig
from selfie_pipeline.threads import torch_threads

INITIAL_WEIGHTS = {
    "selfie_classifier": "from the encoder",
    "supervised_classifier": "from scratch",
    "weights_classifier": "from the given weights",
}
"""The classifiers of a run, with what each is finetuned from."""
_GRIDS = {"experiment_cells", "tuning_trials"}
"""The outputs of runs that train many networks, each with `compute.cpus_per_cell` threads."""
_NETWORK_OUTPUTS = {
    *INITIAL_WEIGHTS,
    *_GRIDS,
    "encoder",
    "image_predictions",
    "embeddings",
    "suggestions",
}
"""Catalog entries that a network computes."""


def summarise_run(config: Config, outputs: Collection[str], budget: str | None = None) -> list[str]:
    """Return what a run will do: data and sizes, device and precision, steps and batches, labels.

    Args:
        config: Parameters of the run.
        outputs: Names of the catalog entries that its nodes produce.
        budget: The time budget from which the steps will follow; None if they are known.

    Returns:
        A line for each subject that is part of the run.

    Raises:
        UserError: This machine lacks the GPU or the precision that the parameters require.
    """
    patch, model, recipe = config.patch, config.model, config.pretrain
    lines = [
        f"data: {config.data.name}, images of {patch.image_size} × {patch.image_size} pixels, "
        f"{patch.grid_size} × {patch.grid_size} patches of {patch.patch_size}, of which "
        f"{patch.targets} are masked"
    ]
    if _NETWORK_OUTPUTS.intersection(outputs):
        layers = "-".join(map(str, model.layers))
        lines.append(f"network: stages of {layers} blocks, width {model.width}")
        grid = not _GRIDS.isdisjoint(outputs)
        lines.append(f"device: {_format_device(config, grid=grid)}")
    if "encoder" in outputs:
        images = "all" if recipe.images is None else recipe.images
        lines.append(
            f"pretrain: {_format_recipe(recipe, budget)}, on {images} images, seed {recipe.seed}"
        )
    arms = [words for name, words in INITIAL_WEIGHTS.items() if name in outputs]
    if arms:
        lines.append(
            f"finetune {' and '.join(arms)}: {_format_recipe(config.finetune, budget)}, on "
            f"{100 * config.labeled_frac:g} % of the labels, seed {config.seed}"
        )
    return lines + _summarise_studies(config, outputs, budget)


def _summarise_studies(config: Config, outputs: Collection[str], budget: str | None) -> list[str]:
    grid, tune, recipe = config.experiment, config.tune, _format_recipe(config.finetune, budget)
    fractions = ", ".join(f"{100 * fraction:g}" for fraction in grid.labeled_fracs)
    lines = []
    if "experiment_cells" in outputs:
        cells = len(grid.labeled_fracs) * len(grid.seeds) * len(grid.arms)
        lines.append(
            f"experiment: {cells} cells: {', '.join(grid.arms)}; {fractions} % of the labels; "
            f"seeds {', '.join(map(str, grid.seeds))}; each {recipe}"
        )
    if "tuning_trials" in outputs:
        lines.append(
            f"tune: {tune.trials} trials each of {', '.join(grid.arms)} at {fractions} % of the "
            f"labels, over {', '.join(tune.space)}; each {recipe}"
        )
    return lines


def _format_recipe(recipe: TrainingConfig, budget: str | None = None) -> str:
    steps = f"{recipe.steps:,} steps" if budget is None else f"by the budget of {budget}, steps"
    return (
        f"{steps} of {recipe.batch_size:,} images, peak learning rate {recipe.peak_learning_rate:g}"
    )


def _format_device(config: Config, *, grid: bool) -> str:
    """Describe the device of a training, or of each of the trainings of a grid."""
    from selfie_pipeline.training.device import find_device  # noqa: PLC0415  # slow

    device = find_device(config.compute)
    with torch_threads(config.compute.threads_per_cell) if grid else nullcontext():
        local = f"{device.name}, {'bf16' if device.bf16 else 'fp32'}"
    if config.compute.engine == "local":
        return local
    workers = "" if grid else f", {config.compute.workers} workers per training"
    return f"a Ray cluster{workers}; here {local}"
