"""Each in a process of its own: the setting lasts as long as a process."""

import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from selfie_pipeline.training.memory import keep_freed_memory

def step():
    return torch.ones(2**24)  # 64 MiB, more than glibc ever keeps by itself

if {kept}:
    keep_freed_memory()
for _ in range(20):  # the heap grows a few times before it settles
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults_of_a_step(*, kept: bool) -> int:
    code = FAULTS.format(kept=kept)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is what is set")
def test_memory_that_a_step_freed_serves_the_next_without_page_faults():
    assert page_faults_of_a_step(kept=False) > 1000
    assert page_faults_of_a_step(kept=True) < 100
