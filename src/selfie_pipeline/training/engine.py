"""The means to run trainings: this process, or workers of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from selfie_pipeline.config import ComputeConfig
from selfie_pipeline.training.device import Device, find_device
from selfie_pipeline.training.loop import Fit, fit


@dataclass(frozen=True)
class Engine:
    """The means to run trainings.

    Attributes:
        fit: The training loop.
        local_device: Device of this process, for the work before and after a training.
        device_name: Name of the processors that train, for the records.
        identity: Properties that a training's numbers depend on, by name.
    """

    fit: Fit
    local_device: Device
    device_name: str
    identity: dict[str, str]

    @property
    def precision(self) -> str:
        """The precision, as records have it."""
        return self.identity["precision"]


@contextmanager
def open_engine(compute: ComputeConfig) -> Iterator[Engine]:
    """Open the engine that the configuration asks for, with its cluster if it has one.

    Raises:
        UserError: A GPU or bf16 is requested and missing, or no cluster is large enough.
    """
    local_device = find_device(compute)
    if compute.engine == "local":
        yield Engine(fit, local_device, local_device.name, {"precision": local_device.precision})
        return
    from selfie_pipeline.training.distributed.driver import open_workers  # noqa: PLC0415  # an extra

    with open_workers(compute) as workers:
        yield Engine(workers.fit, local_device, workers.name, workers.identity)
