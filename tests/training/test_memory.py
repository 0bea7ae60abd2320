"""Tests of the reuse of memory and of the error if it does not suffice."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from selfie_pipeline.config import UserError
from selfie_pipeline.training import memory
from selfie_pipeline.training.memory import (
    available_memory,
    network_too_large_error,
    out_of_memory_error,
    training_bytes,
)

# In a separate process, because the setting lasts until the process ends.
COUNT_PAGE_FAULTS = """
import resource
import torch
from selfie_pipeline.training.memory import retain_freed_memory

def step():
    return torch.ones(2**24)  # 64 MiB, more than glibc ever keeps by itself

if {retained}:
    retain_freed_memory()
for _ in range(20):  # the heap grows a few times before its size is stable
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_page_faults_of_a_step(*, retained: bool) -> int:
    code = COUNT_PAGE_FAULTS.format(retained=retained)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is that of glibc")
def test_retained_memory_is_reused_without_page_faults():
    assert count_page_faults_of_a_step(retained=False) > 1000
    assert count_page_faults_of_a_step(retained=True) < 100


def allocate_too_much():
    torch.empty(2**60)


def allocate_too_much_in_numpy():
    np.zeros((2**40, 2**10))


def allocate_too_much_on_a_gpu():
    """Raise torch's error of a GPU."""
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB"
    )


def allocate_too_much_in_cuda():
    """Raise torch's error of a call of CUDA."""
    raise torch.AcceleratorError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")


def allocate_too_much_in_cublas():
    """Raise torch's error of a library of CUDA."""
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)")


@pytest.mark.parametrize(
    ("allocate", "requested"),
    [
        (allocate_too_much, "4611686018427387904 bytes more requested"),
        (allocate_too_much_in_numpy, "8.00 PiB more requested"),
        (allocate_too_much_on_a_gpu, "20.00 GiB more requested"),
        (allocate_too_much_in_cuda, "more requested than is free"),
        (allocate_too_much_in_cublas, "more requested than is free"),
    ],
)
def test_an_out_of_memory_error_is_one_line(allocate, requested):
    line = rf"^pretrain: too much \({requested}\); ask for less"
    with (
        pytest.raises(UserError, match=line) as caught,
        out_of_memory_error("pretrain: too much", "ask for less"),
    ):
        allocate()

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("width", "size"), [(2**60, r"\d+ bytes"), (2**70, "more .*64 bits.*")])
def test_a_network_that_is_too_large_is_one_line(width, size):
    line = rf"^out of memory for the network \({size}( more requested)?\); reduce model.width, .*"
    with pytest.raises(UserError, match=line), network_too_large_error():
        torch.nn.Linear(1, width)


def test_other_errors_are_not_replaced():
    with (
        pytest.raises(RuntimeError, match="shapes"),
        out_of_memory_error("pretrain: too much", "ask for less"),
    ):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_a_training_takes_what_its_forward_pass_keeps() -> None:
    with torch.device("meta"):
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1, bias=False), torch.nn.Sigmoid())
        one, two = (training_bytes(network, torch.empty(n, 3, 100, 100)) for n in (1, 2))

    # The convolution keeps its input and the sigmoid its output: 4 bytes a number.
    kept = 4 * (3 + 8) * 100 * 100
    assert two - one == 2 * kept
    weights = 4 * 3 * 8  # which are kept, too
    # 1 GiB for the process, and the weights with gradients, momentum and a checkpoint
    assert one == 2**30 + 4 * weights + 2 * (kept + weights)


def test_available_memory_is_that_of_the_machine_or_less() -> None:
    page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")

    assert 2**20 < available_memory() <= page * pages


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/meminfo")
@pytest.mark.parametrize(
    ("own", "group", "names"),
    [
        ("0::/", "", ("memory.max", "memory.current", "inactive_file")),  # in a container
        ("0::/docker/7", "", ("memory.max", "memory.current", "inactive_file")),  # of the host
        ("0::/job_3/step_0/task", "job_3", ("memory.max", "memory.current", "inactive_file")),
        (
            "5:cpu:/\n4:memory:/slurm/job_3\n0::/",
            "memory/slurm/job_3",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
)
def test_available_memory_is_what_the_control_groups_leave(
    tmp_path, monkeypatch, own: str, group: str, names: tuple[str, str, str]
) -> None:
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(memory, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    limit, used, cache = names
    folder = tmp_path / group
    folder.mkdir(parents=True, exist_ok=True)
    of_machine = available_memory()
    assert of_machine > os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    (folder / limit).write_text("max\n")
    assert available_memory() > of_machine / 2
    (folder / limit).write_text(f"{3 * 2**20}\n")
    (folder / used).write_text(f"{2**20}\n")
    assert available_memory() == 2 * 2**20
    (folder / "memory.stat").write_text(f"anon 7\n{cache} {2**19}\nactive_file 9\n")
    assert available_memory() == 2 * 2**20 + 2**19  # what can be read from the disk again
