"""The connection to a Ray cluster, and what the cluster holds."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
import torch

from selfie_pipeline.config import ComputeConfig, UserError
from selfie_pipeline.training.device import Device, find_device

_LOG = logging.getLogger(__name__)
_SECONDS_TO_CONNECT = 10
_SECONDS_TO_JOIN = 15
"""That machines which are just starting have to join the cluster."""
_SECONDS_BEFORE_BUSY = 30
_SECONDS_FOR_A_PLACE = 600
_OBJECT_BYTES = 2**30
"""Of shared memory for a cluster of our own: room for a few sets of weights."""
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # not set, Ray warns of a change
    "RAY_worker_niceness": "0",  # by default 15: a busy machine would hardly let them run
}
_OWN = (None, "", "local")


@contextmanager
def connected() -> Iterator[None]:
    """Be connected to the cluster that RAY_ADDRESS names, or to one that ends with the block.

    A connection that this process has already is used, and left as it is.

    Raises:
        UserError: There is no cluster at the address.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    own = address in _OWN
    if not own:
        _check_reachable(str(address))
    try:
        ray.init(
            address="local" if own else address,
            object_store_memory=_OBJECT_BYTES if own else None,
            include_dashboard=False if own else None,
            log_to_driver=False,  # the workers' messages come over the board
            configure_logging=False,
            logging_level=logging.WARNING,
        )
    except Exception as error:  # Ray raises a bare one where its start takes too long
        raise UserError(
            f"the Ray cluster at {address or 'this machine'} can't be used: "
            f"{' '.join(str(error).split())}; start one with `ray start`, or unset RAY_ADDRESS for "
            "one on this machine alone"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself waits for minutes, and then ends the process."""
    if address == "auto":
        return
    if address.startswith("ray://"):
        raise UserError(
            f"RAY_ADDRESS = {address} is that of a Ray Client; allowed: host:port of the cluster, "
            "such as 10.0.0.1:6379, from a machine that belongs to it"
        )
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _SECONDS_TO_CONNECT).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"RAY_ADDRESS = {address}, but no Ray cluster answers there ({error}); start one with "
            "`ray start --head`, or unset RAY_ADDRESS for one on this machine alone"
        ) from None


@dataclass(frozen=True)
class Need:
    """Places that are asked of a cluster, all alike.

    Attributes:
        what: The parameter that asks for them, and its value.
        count: How many places.
        cpus: Of each.
        gpus: Of each.
    """

    what: str
    count: int
    cpus: float
    gpus: float


def workers_need(compute: ComputeConfig) -> Need:
    """What one training needs."""
    what = f"compute.workers = {compute.workers}"
    return Need(what, compute.workers, compute.cpus_per_worker, float(uses_gpus(compute)))


def cell_need(compute: ComputeConfig) -> Need:
    """What a cell of the experiment or a trial of the tuning needs."""
    gpus = compute.gpus_per_cell if uses_gpus(compute) else 0.0
    return Need("a cell", 1, compute.cpus_per_cell, gpus)


def uses_gpus(compute: ComputeConfig) -> bool:
    """Whether trainings run on GPUs: as asked, or where the cluster has any."""
    if compute.accelerator == "auto":
        return any(node.get("GPU", 0) for node in _machines())
    return compute.accelerator == "gpu"


def places(need: Need) -> int:
    """How many of the places the cluster's machines hold, were nothing else running on them."""
    return sum(_places_on(machine, need) for machine in _machines())


def wait_for_places(need: Need) -> None:
    """Return when the cluster is large enough.

    Raises:
        UserError: It is not, and no machine has joined that makes it so.
    """
    deadline = time.monotonic() + _SECONDS_TO_JOIN
    while places(need) < need.count:
        if time.monotonic() > deadline:
            gpus = f" and {need.gpus:g} GPU" if need.gpus else ""
            raise UserError(
                f"{need.what}, with {need.cpus:g} CPU{gpus} each, does not fit on the Ray "
                f"cluster: {describe()}; it holds {places(need)}: ask for less, or add machines"
            )
        time.sleep(0.5)


def ask_a_place(compute: ComputeConfig, need: Need) -> tuple[Device, str]:
    """The device that one of the places computes on, and what its processor is called.

    Raises:
        UserError: No place has become free, or its machine can't do what is asked.
    """
    ask = ray.remote(_device_here).options(num_cpus=need.cpus, num_gpus=need.gpus)
    answer = ask.remote(compute)
    if not ray.wait([answer], timeout=_SECONDS_BEFORE_BUSY)[0]:
        _LOG.info("The Ray cluster is busy (%s): waits for a place on it", describe())
    try:
        found: tuple[Device, str] = ray.get(answer, timeout=_SECONDS_FOR_A_PLACE)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"a machine of the Ray cluster can't work for this project ({reason}); install the "
            "same versions of Python and of the project on all of them"
        ) from error
    except ray.exceptions.GetTimeoutError:
        raise UserError(
            f"the Ray cluster had no free place for {need.what} for {_SECONDS_FOR_A_PLACE} s; "
            "see `ray status` for what runs on it"
        ) from None
    return found


def _device_here(compute: ComputeConfig) -> tuple[Device, str]:
    torch.set_num_threads(compute.cpus_per_worker)
    device = find_device(compute)
    return device, device.name


def describe() -> str:
    """The cluster in words."""
    machines = _machines()
    cpus, gpus = (sum(machine.get(kind, 0) for machine in machines) for kind in ("CPU", "GPU"))
    return f"{len(machines)} machines with {cpus:g} CPUs and {gpus:g} GPUs in all"


def _machines() -> list[dict[str, float]]:
    """The resources of each machine."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _places_on(machine: dict[str, float], need: Need) -> int:
    of_each_kind = [
        int(machine.get(kind, 0) / asked + 1e-9)
        for kind, asked in (("CPU", need.cpus), ("GPU", need.gpus))
        if asked
    ]
    return min(of_each_kind)
