import subprocess
import sys

import pytest
import torch

from selfie_pipeline.config import UserError
from selfie_pipeline.training.memory import out_of_memory_error

# In a process of its own: the setting lasts as long as a process.
FAULTS = """
import resource
import torch
from selfie_pipeline.training.memory import retain_freed_memory

def step():
    return torch.ones(2**24)  # 64 MiB, more than glibc ever keeps by itself

if {kept}:
    retain_freed_memory()
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


def allocate_too_much():
    torch.empty(2**60)


def allocate_too_much_on_a_gpu():
    """As torch says it there."""
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB"
    )


@pytest.mark.parametrize(
    ("act", "size"),
    [(allocate_too_much, "4611686018427387904 bytes"), (allocate_too_much_on_a_gpu, "20.00 GiB")],
)
def test_a_lack_of_memory_is_one_line(act, size):
    line = rf"^pretrain: no memory for 32 images at once \({size} more asked\); .*accumulate"
    with pytest.raises(UserError, match=line) as told, out_of_memory_error("pretrain", 32):
        act()

    assert "\n" not in str(told.value)


def test_other_errors_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="shapes"), out_of_memory_error("pretrain", 32):
        torch.ones(2, 3) @ torch.ones(2, 3)
