"""Measures the time that history, progress and checkpoints add to a bare training step.

    python benchmarks/overhead.py --recipe base

One training runs with the project's loop. After every block of its steps, a bare PyTorch loop takes
as many steps in the same process, so that other load on the machine slows both. Each block ends
with a checkpoint, however rare they are in the recipe. The reported figure is the median of the
ratios of the pairs. The start of the training is not included.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

from common import (
    arguments,
    bare_step,
    digit_images,
    median_interval,
    now,
    pretraining_task,
    recipe,
    report,
    seconds,
)

from selfie_pipeline.config import Config
from selfie_pipeline.training.checkpoints import Checkpoints
from selfie_pipeline.training.data.batches import Batches
from selfie_pipeline.training.data.prefetch import prefetch
from selfie_pipeline.training.device import Device, find_device
from selfie_pipeline.training.loop import fit
from selfie_pipeline.training.state import TrainingState


def bare(config: Config, device: Device) -> Callable[[], None]:
    """Return a function that takes a step of the bare loop, on the same batches."""
    images, rows = digit_images(config)
    step = bare_step(pretraining_task(config, images).to(device.type), device)
    batches = prefetch(Batches(images, rows, 0, config.pretrain), device.type)
    return lambda: step(next(batches))


class Blocks:
    """A training's callback that times as many bare steps after every block of its steps."""

    def __init__(self, step: Callable[[], None], block: int) -> None:
        self.step = step
        self.block = block
        self.started: float | None = None
        self.pairs: list[tuple[float, float]] = []  # bare and project, seconds a step

    def __call__(self, state: TrainingState) -> None:
        """Measure both after the last step of a block."""
        if state.step % self.block:
            return
        inside = None if self.started is None else (now() - self.started) / self.block
        outside = seconds(self.step, self.block)
        if inside is not None:  # the first block is the warm-up of both
            self.pairs.append((outside, inside))
        self.started = now()


def main() -> None:
    """Measure pairs of blocks, and report."""
    parser = arguments(__doc__)
    parser.add_argument("--recipe", default="base", help="base, or a folder of conf/")
    parser.add_argument("--block", type=int, default=20, help="steps of a block")
    parser.add_argument("--pairs", type=int, default=40, help="pairs of blocks")
    options = parser.parse_args()

    steps = options.block * (options.pairs + 1)
    config = recipe(options.recipe, steps=steps, warmup_steps=1)
    device = find_device(config.compute)
    images, rows = digit_images(config)
    blocks = Blocks(bare(config, device), options.block)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), {}, options.block, "never")
        batches = Batches(images, rows, 0, config.pretrain)
        task = pretraining_task(config, images)
        fit(task, batches, device, checkpoints, "overhead", [blocks])
    ratios = [inside / outside for outside, inside in blocks.pairs]
    low, high = median_interval(ratios)
    report(
        {
            "recipe": options.recipe,
            "pairs of blocks": options.pairs,
            "steps of a block, checkpoints every": options.block,
            "bare, ms a step": 1e3 * median([pair[0] for pair in blocks.pairs]),
            "inside, ms a step": 1e3 * median([pair[1] for pair in blocks.pairs]),
            "overhead, %": 100 * (median(ratios) - 1),
            "95 % interval, from, %": 100 * (low - 1),
            "95 % interval, to, %": 100 * (high - 1),
        },
        device,
        options.json,
    )


if __name__ == "__main__":
    main()
