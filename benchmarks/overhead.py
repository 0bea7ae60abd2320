"""What the project adds to the bare step: Lightning, history, progress, checkpoints.

    python benchmarks/overhead.py --recipe base

The same training runs as a bare PyTorch loop and inside the project, in turn; the ratio of each
pair's time a step is taken, and the median of the ratios reported.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import (
    arguments,
    bare_step,
    digit_images,
    median,
    pretraining_task,
    recipe,
    report,
    seconds,
)

from selfie_pipeline.config import Config
from selfie_pipeline.training.batches import Batches
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.device import Device, find_device
from selfie_pipeline.training.loop import fit


def bare(config: Config, device: Device) -> float:
    """Seconds a step of the bare loop."""
    images, rows = digit_images(config)
    task = pretraining_task(config, images).to(device.type)
    step = bare_step(task, device)
    batches = iter(Batches(images, rows, 0, config.pretrain))
    return seconds(lambda: step(next(batches)), config.pretrain.steps)


def inside(config: Config, device: Device) -> float:
    """Seconds a step inside the project, from its own start of the training to the result."""
    images, rows = digit_images(config)
    task = pretraining_task(config, images)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), {}, config.pretrain.checkpoint_every, "never")
        batches = Batches(images, rows, 0, config.pretrain)
        return seconds(lambda: fit(task, batches, device, checkpoints, "")) / config.pretrain.steps


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--recipe", default="base", help="base, or a folder of conf/")
    parser.add_argument("--steps", type=int, default=200, help="steps of each training")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of trainings")
    options = parser.parse_args()

    config = recipe(options.recipe, steps=options.steps)
    device = find_device(config.compute)
    bare(config, device)  # warm-up
    pairs = [(bare(config, device), inside(config, device)) for _ in range(options.pairs)]
    ratios = [ours / theirs for theirs, ours in pairs]
    report(
        {
            "recipe": options.recipe,
            "steps": options.steps,
            "checkpoints every": config.pretrain.checkpoint_every,
            "bare, ms a step": 1e3 * median([pair[0] for pair in pairs]),
            "inside, ms a step": 1e3 * median([pair[1] for pair in pairs]),
            "overhead, %": 100 * (median(ratios) - 1),
            "lowest, %": 100 * (min(ratios) - 1),
            "highest, %": 100 * (max(ratios) - 1),
        },
        device,
        options.json,
    )


if __name__ == "__main__":
    main()
