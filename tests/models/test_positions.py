"""Tests of the position vectors."""

import pytest
import torch

from selfie_pipeline.models.positions import (
    RowColumnPositions,
    TablePositions,
    build_positions,
)


def count_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_a_table_has_one_learned_vector_per_position():
    positions = TablePositions(4, 128)
    assert positions().shape == (16, 128)
    assert count_parameters(positions) == 16 * 128
    assert len(positions().unique(dim=0)) == 16
    positions()[5].sum().backward()
    assert torch.equal(positions.table.grad.abs().sum(1) > 0, torch.arange(16) == 5)


def test_rows_and_columns_of_a_7_by_7_grid_have_14_learned_vectors():
    positions = RowColumnPositions(7, 64)
    assert positions().shape == (49, 64)
    assert count_parameters(positions) == 14 * 64
    assert len(positions().unique(dim=0)) == 49
    positions()[3 * 7 + 5].sum().backward()
    assert torch.equal(positions.rows.grad.abs().sum(1) > 0, torch.arange(7) == 3)
    assert torch.equal(positions.columns.grad.abs().sum(1) > 0, torch.arange(7) == 5)


def test_positions_are_numbered_row_by_row_like_patches():
    positions = RowColumnPositions(5, 8)
    for row in range(5):
        for column in range(5):
            expected = positions.rows[row] + positions.columns[column]
            assert torch.equal(positions()[row * 5 + column], expected)


@pytest.mark.parametrize("kind", [TablePositions, RowColumnPositions])
def test_all_vectors_begin_with_the_spread_of_berts_embeddings(kind):
    torch.manual_seed(0)
    for parameter in kind(16, 512).parameters():
        assert parameter.std().item() == pytest.approx(0.02, rel=0.05)
        assert parameter.mean().item() == pytest.approx(0, abs=0.001)


@pytest.mark.parametrize(
    ("name", "kind"), [("table", TablePositions), ("row_column", RowColumnPositions)]
)
def test_the_configuration_selects_the_kind(make_config, name, kind):
    config = make_config({"model.positions": name})
    positions = build_positions(config.model, config.patch.grid_size)
    assert isinstance(positions, kind)
    assert positions().shape == (16, config.model.features)
