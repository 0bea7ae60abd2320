"""Measures a GPU's rates, and compares the first steps of a pretraining with those on the CPU."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import torch
from common import (
    bare_step,
    best_rate,
    digit_images,
    forbid_synchronisation,
    now,
    pretraining_task,
    seconds,
)

from gpu_parts.run import Record, Run
from selfie_pipeline.config import Config
from selfie_pipeline.training.data.batches import Batches
from selfie_pipeline.training.data.prefetch import prefetch
from selfie_pipeline.training.device import Device

TOLERANCES = {"fp32": 2e-3, "bf16": 3e-2}
"""Largest relative difference of the first two steps' losses from those of the CPU in fp32."""


def preflight(run: Run) -> None:
    """Measure the GPU, and compare the first steps with the CPU's."""
    # After a step at the full learning rate, rounding alone makes the losses differ by per cents.
    config = run.config(
        batch_size=run.size.check_batch, steps=2, warmup_steps=0, peak_learning_rate=0.01
    )
    device = run.device(config)
    record = Record(run.out, "preflight", device=device.name, batch=run.size.check_batch)
    record.add(
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        copy_bytes_per_s=copy_rate(run.size.copied_bytes, device),
    )
    rates = [best_rate(device) for _ in range(3)]
    record.add(best_flops=max(rates), precision=device.precision)

    expected = first_losses(config, Device("cpu", bf16=False))
    record.add(cpu_fp32_losses=expected)
    for name, tolerance in TOLERANCES.items():
        losses = first_losses(config, replace(device, bf16=name == "bf16"))
        difference = max(abs(a / b - 1) for a, b in zip(losses, expected, strict=True))
        found = {
            "losses": losses,
            "largest_difference": difference,
            "tolerance": tolerance,
            "within_tolerance": difference <= tolerance,
        }
        record.add(**{f"{name}_{key}": value for key, value in found.items()})
    record.add(host_waits_within_a_step=waiting_calls(config, device))


def copy_rate(size: int, device: Device) -> float:
    """Return the bandwidth of a large copy within the device's memory, bytes read and written/s."""
    one = torch.empty(size, dtype=torch.uint8, device=device.type)
    other = torch.empty_like(one)
    copies = [seconds(lambda: other.copy_(one)) for _ in range(10)]
    return 2 * size / median(copies[1:])


def first_losses(config: Config, device: Device) -> list[float]:
    """Return the losses of the first two steps; the dropout masks are the same on all devices."""
    images, rows = digit_images(config)
    task = pretraining_task(config, images).to(device.type)
    losses: list[float] = []
    task.register_forward_hook(lambda _, __, output: losses.append(output[0].item()))
    step = bare_step(task, device)
    for batch in prefetch(Batches(images, rows, 0, config.pretrain), device.type):
        step(batch)
    return losses


def waiting_calls(config: Config, device: Device) -> str:
    """Take a step in which torch forbids calls that wait for the GPU; return the first such one."""
    if device.type != "cuda":
        return "not checked without a GPU"
    images, rows = digit_images(config)
    step = bare_step(pretraining_task(config, images).to(device.type), device)
    first, second = prefetch(Batches(images, rows, 0, config.pretrain), device.type)
    step(first)  # cuDNN tries its kernels
    now()
    try:
        with forbid_synchronisation():
            step(second)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return "none"
