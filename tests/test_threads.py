"""Tests of setting torch's threads."""

import torch

from selfie_pipeline.threads import torch_threads


def test_threads_are_set_for_a_while():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch_threads(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
