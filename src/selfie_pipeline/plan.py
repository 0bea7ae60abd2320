"""What a run is about to do, in a few lines: said before its first node, from the parameters."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from selfie_pipeline.config import Config, TrainingConfig

_TRAINED = {"encoder", "selfie_classifier", "supervised_classifier"}
_OF_STUDIES = {"experiment_cells", "tuning_trials"}
_COMPUTED = _TRAINED | _OF_STUDIES | {"image_predictions", "embeddings"}


def plan(config: Config, outputs: Collection[str]) -> list[str]:
    """Say what a run will do: data and sizes, device and precision, steps and batches, labels.

    Args:
        config: The parameters of the run.
        outputs: Names of the data sets that its nodes make.

    Returns:
        Lines without a newline, one subject each; of what the run does not do there is none.

    Raises:
        UserError: A GPU or a precision is asked for that this machine has not.
    """
    return list(_lines(config, set(outputs)))


def _lines(config: Config, outputs: set[str]) -> Iterator[str]:
    patch, model = config.patch, config.model
    yield (
        f"data: {config.data.name}, images of {patch.image_size} × {patch.image_size} pixels, "
        f"{patch.grid_size} × {patch.grid_size} patches of {patch.patch_size}, of which "
        f"{patch.targets} are masked"
    )
    if outputs & _COMPUTED:
        yield f"network: stages of {'-'.join(map(str, model.layers))} blocks, width {model.width}"
        yield f"device: {_device(config)}"
    if "encoder" in outputs:
        seen = (
            "all images" if config.pretrain.images is None else f"{config.pretrain.images} images"
        )
        yield f"pretrain: {_recipe(config.pretrain)}, on {seen}, seed {config.pretrain.seed}"
    arms = [
        words
        for name, words in (
            ("selfie_classifier", "from the encoder"),
            ("supervised_classifier", "from scratch"),
        )
        if name in outputs
    ]
    if arms:
        yield (
            f"finetune {' and '.join(arms)}: {_recipe(config.finetune)}, on "
            f"{100 * config.labeled_frac:g} % of the labels, seed {config.seed}"
        )
    yield from _studies(config, outputs)


def _studies(config: Config, outputs: set[str]) -> Iterator[str]:
    grid, tune = config.experiment, config.tune
    fractions = ", ".join(f"{100 * fraction:g}" for fraction in grid.labeled_fracs)
    if "experiment_cells" in outputs:
        cells = len(grid.labeled_fracs) * len(grid.seeds) * len(grid.arms)
        yield (
            f"experiment: {cells} cells: {', '.join(grid.arms)}; {fractions} % of the labels; "
            f"seeds {', '.join(map(str, grid.seeds))}; each {_recipe(config.finetune)}"
        )
    if "tuning_trials" in outputs:
        yield (
            f"tune: {tune.trials} trials each of {', '.join(grid.arms)} at {fractions} % of the "
            f"labels, over {', '.join(tune.space)}; each {_recipe(config.finetune)}"
        )


def _recipe(recipe: TrainingConfig) -> str:
    return (
        f"{recipe.steps:,} steps of {recipe.batch_size:,} images, peak learning rate "
        f"{recipe.peak_learning_rate:g}"
    )


def _device(config: Config) -> str:
    from selfie_pipeline.training.device import find_device  # noqa: PLC0415  # torch

    device = find_device(config.compute)
    here = f"{device.name}, {'bf16' if device.bf16 else 'fp32'}"
    if config.compute.engine == "local":
        return here
    return f"a Ray cluster, {config.compute.workers} workers a training; here {here}"
