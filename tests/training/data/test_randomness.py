"""Tests of the random streams."""

import pytest
import torch

from selfie_pipeline.training.data.randomness import (
    RandomStream,
    fold_in,
    generator,
    seeded_initialisation,
)


def test_streams_keep_their_numbers_as_stored_results_follow_from_them():
    names = (
        "weights shuffle augmentation mask dropout subset pretraining_images validation held_out"
    )

    assert {stream.name.lower(): int(stream) for stream in RandomStream} == {
        name: number for number, name in enumerate(names.split())
    }


def test_seeds_differ_between_seeds_streams_and_steps():
    seeds = [
        fold_in(seed, stream, step)
        for seed in (0, 1, 2, 2**32 - 1)
        for stream in RandomStream
        for step in range(200)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_of_consecutive_steps_share_no_bits():
    """Each of the 63 bits is set in about half of the seeds of consecutive steps."""
    seeds = torch.tensor([fold_in(0, RandomStream.MASK, step) for step in range(2000)])
    for bit in range(63):
        share = (seeds >> bit & 1).double().mean().item()
        assert share == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0, 0, 0), 7896617691693857887),  # weights
        ((0, 1, 1), 1554199118406742183),  # shuffle
        ((7, 2, 119999), 458865635760554135),  # augmentation
        ((7, 3, 3), 1729168002221264068),  # mask
        ((4294967295, 4, 12), 4280165935800085905),  # dropout
        ((3, 5, 0), 4895867234429419378),  # subset
    ],
)
def test_the_values_of_a_release_do_not_change(arguments, expected):
    """Resuming a checkpoint or repeating a result of an earlier version depends on them."""
    assert fold_in(*arguments) == expected


def test_equal_generators_give_equal_numbers():
    numbers = [
        torch.rand(5, generator=generator(*key))
        for key in [
            (1, RandomStream.MASK, 2),
            (1, RandomStream.MASK, 2),
            (1, RandomStream.DROPOUT, 2),
        ]
    ]
    assert torch.equal(numbers[0], numbers[1])
    assert not torch.equal(numbers[0], numbers[2])


def test_initial_weights_depend_on_the_seed_and_leave_torchs_state():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    drawn = []
    for seed in (5, 5, 6):
        with seeded_initialisation(seed):
            drawn.append(torch.nn.Linear(4, 4).weight)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
