"""Tests of the digest of weights."""

import hashlib

import torch

from selfie_pipeline.weights import Weights


def test_the_digest_depends_on_names_dtypes_shapes_and_bytes():
    base = {"w": torch.zeros(2, 2)}
    others = [
        {"v": torch.zeros(2, 2)},
        {"w": torch.zeros(4)},
        {"w": torch.zeros(2, 2, dtype=torch.int32)},
        {"w": torch.tensor([[0.0, 0.0], [0.0, 1e-30]])},
        {"w": torch.zeros(2, 2), "x": torch.zeros(0)},
        {},
    ]

    assert len({Weights(tensors, {}).digest() for tensors in [base, *others]}) == 7
    assert Weights(base, {}).digest() == Weights({"w": torch.zeros(2, 2)}, {"seed": 1}).digest()


def test_the_digest_is_the_documented_hash():
    header = b'["w", "torch.float32", [2]]'
    expected = hashlib.sha256(header + torch.tensor([1.0, 2.0]).numpy().tobytes()).hexdigest()

    assert Weights({"w": torch.tensor([1.0, 2.0])}, {}).digest() == expected


def test_order_and_memory_format_do_not_change_the_digest():
    a, b = torch.rand(2, 3, 4, 4), torch.rand(2)

    swapped = {"b": b, "a": a.to(memory_format=torch.channels_last)}

    assert Weights({"a": a, "b": b}, {}).digest() == Weights(swapped, {}).digest()
