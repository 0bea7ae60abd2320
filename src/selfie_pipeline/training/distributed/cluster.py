"""The connection to a Ray cluster, and its capacity."""

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
from ray.exceptions import GetTimeoutError, RayTaskError

from selfie_pipeline.config import ComputeConfig, UserError
from selfie_pipeline.training.device import Device, find_device

_LOG = logging.getLogger(__name__)
_CONNECT_TIMEOUT_S = 10
_JOIN_TIMEOUT_S = 15
"""Time for machines that are just starting to join the cluster."""
_BUSY_NOTICE_S = 30
_RESOURCE_TIMEOUT_S = 600
_OBJECT_STORE_BYTES = 2**30
"""Shared memory of a cluster started here: room for a few sets of weights."""
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # if unset, Ray warns of a change
    "RAY_worker_niceness": "0",  # with the default, 15, workers starve on a busy machine
}
_OWN = (None, "", "local")


@contextmanager
def connect() -> Iterator[None]:
    """Connect to the cluster that RAY_ADDRESS names, or to one that lasts as long as the context.

    An existing connection of this process is used, and stays open.

    Raises:
        UserError: There is no cluster at the address.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    own = address in _OWN
    if not own:
        _check_reachable(str(address))
    try:
        ray.init(
            address="local" if own else address,
            object_store_memory=_OBJECT_STORE_BYTES if own else None,
            include_dashboard=False if own else None,
            log_to_driver=False,  # the workers' messages come through the status actor
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
    """Check the address first: Ray itself would wait for minutes, then end the process."""
    if address == "auto":
        return
    if address.startswith("ray://"):
        raise UserError(
            f"RAY_ADDRESS = {address} is that of a Ray Client; allowed: host:port of the cluster, "
            "such as 10.0.0.1:6379, from a machine that belongs to it"
        )
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError, OverflowError) as error:  # the last of a port of 65536 or more
        raise UserError(
            f"RAY_ADDRESS = {address}, but no Ray cluster answers there ({error}); start one with "
            "`ray start --head`, or unset RAY_ADDRESS for one on this machine alone"
        ) from None


@dataclass(frozen=True)
class ResourceRequest:
    """A request for equal shares of a cluster's resources, one for each process.

    Attributes:
        name: The parameter that makes the request, and its value.
        count: Number of processes.
        cpus: CPUs of each.
        gpus: GPUs of each.
    """

    name: str
    count: int
    cpus: float
    gpus: float


def worker_request(compute: ComputeConfig) -> ResourceRequest:
    """Return the resources that one training requests."""
    name = f"compute.workers = {compute.workers}"
    return ResourceRequest(
        name, compute.workers, compute.cpus_per_worker, float(uses_gpus(compute))
    )


def job_request(compute: ComputeConfig) -> ResourceRequest:
    """Return the resources that a cell of the experiment or a trial of the tuning requests."""
    gpus = compute.gpus_per_cell if uses_gpus(compute) else 0.0
    return ResourceRequest("a cell", 1, compute.cpus_per_cell, gpus)


def uses_gpus(compute: ComputeConfig) -> bool:
    """Return whether trainings run on GPUs: as configured, or if the cluster has any."""
    if compute.accelerator == "auto":
        return any(node.get("GPU", 0) for node in _machines())
    return compute.accelerator == "gpu"


def capacity(request: ResourceRequest) -> int:
    """Return how many of the processes fit on the cluster if nothing else runs there."""
    asked = {"CPU": request.cpus, "GPU": request.gpus}
    return sum(
        min(int(machine.get(kind, 0) / share + 1e-9) for kind, share in asked.items() if share)
        for machine in _machines()
    )


def wait_for_capacity(request: ResourceRequest) -> None:
    """Wait until the cluster is large enough.

    Raises:
        UserError: It stays too small.
    """
    deadline = time.monotonic() + _JOIN_TIMEOUT_S
    while capacity(request) < request.count:
        if time.monotonic() > deadline:
            gpus = f" and {request.gpus:g} GPU" if request.gpus else ""
            raise UserError(
                f"{request.name}, with {request.cpus:g} CPU{gpus} each, does not fit on the Ray "
                f"cluster: {describe_cluster()}; it holds "
                f"{capacity(request)}: ask for less, or add machines"
            )
        time.sleep(0.5)


def probe_device(compute: ComputeConfig, request: ResourceRequest) -> tuple[Device, str]:
    """Find the device of one of the processes, and its name, by running one on the cluster.

    Raises:
        UserError: No resources became free, or a machine can't run this project.
    """
    ask = ray.remote(num_cpus=request.cpus, num_gpus=request.gpus)(_find_device)
    answer = ask.remote(compute)
    if not ray.wait([answer], timeout=_BUSY_NOTICE_S)[0]:
        _LOG.info("The Ray cluster is busy (%s): waits for free resources", describe_cluster())
    try:
        found: tuple[Device, str] = ray.get(answer, timeout=_RESOURCE_TIMEOUT_S)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"a machine of the Ray cluster can't run this project ({reason}); install the "
            "same versions of Python and of the project on all of them"
        ) from error
    except GetTimeoutError:
        raise UserError(
            f"the Ray cluster had no free resources for {request.name} for {_RESOURCE_TIMEOUT_S} "
            "s; see `ray status` for what runs on it"
        ) from None
    return found


def _find_device(compute: ComputeConfig) -> tuple[Device, str]:
    torch.set_num_threads(compute.cpus_per_worker)
    device = find_device(compute)
    return device, device.name


def describe_cluster() -> str:
    """Describe the machines of the cluster."""
    machines = _machines()
    cpus, gpus = (sum(machine.get(kind, 0) for machine in machines) for kind in ("CPU", "GPU"))
    return f"{len(machines)} machines with {cpus:g} CPUs and {gpus:g} GPUs in all"


def _machines() -> list[dict[str, float]]:
    """Return the resources of each machine."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
