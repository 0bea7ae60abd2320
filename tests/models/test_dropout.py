import pytest
import torch

from selfie_pipeline.models.dropout import DropoutRng, dropout

SHAPES = [(12, 5), (12, 3, 7, 7), (12, 7, 4)]


def noise(seed=0, batch_size=12, first_row=0):
    return DropoutRng(torch.Generator().manual_seed(seed), batch_size, first_row)


@pytest.mark.parametrize("parts", [2, 3, 4, 12])
def test_parts_of_a_batch_drop_what_the_whole_drops(parts):
    values = [torch.rand(shape) + 1 for shape in SHAPES]
    whole = noise()
    expected = [whole.dropout(value, 0.4) for value in values]  # one after another, as in a network
    size = 12 // parts
    for first in range(0, 12, size):
        part = noise(first_row=first)
        for value, rows in zip(values, expected, strict=True):
            own = slice(first, first + size)
            assert torch.equal(part.dropout(value[own], 0.4), rows[own])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_is_the_share_that_drops_and_the_mean_stays(rate):
    values = torch.full((12, 20_000), 3.0)
    out = noise().dropout(values, rate)
    assert (out == 0).double().mean().item() == pytest.approx(rate, abs=0.01)
    assert out.mean().item() == pytest.approx(3, rel=0.03)
    torch.testing.assert_close(out[out != 0].unique(), torch.tensor([3 / (1 - rate)]))


def test_rows_and_repeated_calls_drop_different_units():
    source = noise()
    values = torch.ones(12, 1000)
    first, second = source.dropout(values, 0.5), source.dropout(values, 0.5)
    assert not torch.equal(first, second)
    assert len(first.unique(dim=0)) == 12


def test_what_drops_follows_from_the_seed():
    values = torch.rand(12, 100)
    assert torch.equal(noise(3).dropout(values, 0.5), noise(3).dropout(values, 0.5))
    assert not torch.equal(noise(3).dropout(values, 0.5), noise(4).dropout(values, 0.5))


def test_torch_own_random_state_plays_no_part():
    values = torch.rand(12, 100)
    torch.manual_seed(0)
    expected = noise().dropout(values, 0.5)
    torch.manual_seed(1)
    assert torch.equal(noise().dropout(values, 0.5), expected)


def test_a_rate_of_zero_drops_nothing_and_draws_nothing():
    source = noise()
    values = torch.rand(12, 9)
    before = source.generator.get_state()
    assert torch.equal(source.dropout(values, 0.0), values)
    assert torch.equal(source.generator.get_state(), before)


def test_without_noise_the_values_pass():
    values = torch.rand(4, 9)
    assert torch.equal(dropout(values, 0.5, None), values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_is_kept(dtype):
    assert noise().dropout(torch.ones(12, 4, dtype=dtype), 0.3).dtype == dtype
