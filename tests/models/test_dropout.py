"""Tests of the dropout and its random numbers."""

import pytest
import torch

from selfie_pipeline.models.dropout import DropoutRng, dropout

SHAPES = [(12, 5), (12, 3, 7, 7), (12, 7, 4)]


def make_rng(seed=0, batch_size=12, first_row=0):
    return DropoutRng(seed, batch_size, first_row)


@pytest.mark.parametrize("parts", [2, 3, 4, 12])
def test_micro_batches_drop_the_same_units_as_the_complete_batch(parts):
    values = [torch.rand(shape) + 1 for shape in SHAPES]
    rng = make_rng()
    expected = [dropout(value, 0.4, rng) for value in values]  # in sequence, as in a network
    size = 12 // parts
    for first in range(0, 12, size):
        rng = make_rng(first_row=first)
        rows = slice(first, first + size)
        for value, result in zip(values, expected, strict=True):
            assert torch.equal(dropout(value[rows], 0.4, rng), result[rows])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_is_the_share_that_drops_and_the_mean_is_kept(rate):
    values = torch.full((12, 20_000), 3.0)
    out = dropout(values, rate, make_rng())
    assert (out == 0).double().mean().item() == pytest.approx(rate, abs=0.01)
    assert out.mean().item() == pytest.approx(3, rel=0.03)
    torch.testing.assert_close(out[out != 0].unique(), torch.tensor([3 / (1 - rate)]))


def test_rows_and_repeated_calls_drop_different_units():
    rng = make_rng()
    values = torch.ones(12, 1000)
    first, second = dropout(values, 0.5, rng), dropout(values, 0.5, rng)
    assert not torch.equal(first, second)
    assert len(first.unique(dim=0)) == 12


def test_the_dropped_units_depend_on_the_seed():
    values = torch.rand(12, 100)
    first, again, other = (dropout(values, 0.5, make_rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_torchs_global_random_state_has_no_effect():
    values = torch.rand(12, 100)
    torch.manual_seed(0)
    expected = dropout(values, 0.5, make_rng())
    torch.manual_seed(1)
    assert torch.equal(dropout(values, 0.5, make_rng()), expected)


def test_a_rate_just_below_one_drops_nearly_all():
    assert dropout(torch.ones(64, 1000), 1 - 2**-17, make_rng()).count_nonzero() < 100


def test_a_rate_of_zero_drops_nothing_and_draws_nothing():
    rng, other = make_rng(), make_rng()
    values = torch.rand(12, 9)
    assert torch.equal(dropout(values, 0.0, rng), values)
    assert torch.equal(rng.draw(values.shape), other.draw(values.shape))


def test_the_numbers_are_those_of_splitmix64():
    """The outputs that its public reference implementation prints for this seed."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    drawn = make_rng(seed=1234567).draw(torch.Size([3, 4])).contiguous().view(torch.int64)
    assert [word % 2**64 for word in drawn.flatten().tolist()] == published


def test_a_batch_begins_with_its_first_row():
    shape = torch.Size([12, 5])
    assert torch.equal(DropoutRng(0, batch_size=12).draw(shape), make_rng().draw(shape))


def test_without_random_numbers_nothing_drops():
    values = torch.rand(4, 9)
    assert torch.equal(dropout(values, 0.5, None), values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_is_kept(dtype):
    assert dropout(torch.ones(12, 4, dtype=dtype), 0.3, make_rng()).dtype == dtype
