"""Measures images a second of a training step, and its share of the processor's peak rate.

    python benchmarks/throughput.py --recipe cifar10 --batch 64
    python benchmarks/throughput.py --stage finetune --recipe cifar10_small --batch 64

The step's floating-point operations are counted, not estimated. The peak rate is that of a large
matrix product or a large convolution, whichever is faster, measured between the steps of the run.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from common import (
    arguments,
    bare_step,
    best_rate,
    digit_images,
    finetuning_task,
    precision_argument,
    pretraining_task,
    recipe,
    report,
    seconds,
)
from torch.utils.flop_counter import FlopCounterMode

from selfie_pipeline.training.data.batches import Batches
from selfie_pipeline.training.data.prefetch import prefetch
from selfie_pipeline.training.device import find_device

TASKS = {"pretrain": pretraining_task, "finetune": finetuning_task}


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--stage", choices=TASKS, default="pretrain")
    parser.add_argument("--recipe", default="cifar10", help="base, or a folder of conf/")
    parser.add_argument("--batch", type=int, default=64, help="images of a step")
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed")
    precision_argument(parser)
    options = parser.parse_args()

    config = recipe(options.recipe, options.stage, batch_size=options.batch)
    create_task = TASKS[options.stage]
    device = find_device(config.compute.model_copy(update={"precision": options.precision}))
    images, rows = digit_images(config)
    batches = prefetch(Batches(images, rows, 0, getattr(config, options.stage)), device.type)

    eager = replace(device, compile=False)  # the counter does not see operations in compiled code
    counted = bare_step(create_task(config, images).to(device.type), eager)
    with FlopCounterMode(display=False) as counter:
        counted(next(batches))
    operations = counter.get_total_flops()

    step = bare_step(create_task(config, images).to(device.type), device)
    step(next(batches))
    times, rates = [], []
    for _ in range(options.steps):
        batch = next(batches)
        times.append(seconds(lambda batch=batch: step(batch)))
        rates.append(best_rate(device))
    report(
        {
            "stage": options.stage,
            "recipe": options.recipe,
            "batch": options.batch,
            "GFLOP an image": operations / options.batch / 1e9,
            "images a second": options.batch / median(times),
            "GFLOP/s of the step": operations / median(times) / 1e9,
            "GFLOP/s at best": median(rates) / 1e9,
            "share of the limit": median(
                [operations / time / rate for time, rate in zip(times, rates, strict=True)]
            ),
        },
        device,
        options.json,
    )


if __name__ == "__main__":
    main()
