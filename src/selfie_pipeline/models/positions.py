"""Learned vectors for the positions in the patch grid (paper, "Positional embedding")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from selfie_pipeline.config import ModelConfig

_INITIAL_STD = 0.02  # that of BERT, as the paper does not give one


class TablePositions(nn.Module):
    """One vector per position; the paper's choice for 4×4 grids."""

    def __init__(self, grid_size: int, features: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(grid_size**2, features) * _INITIAL_STD)

    def forward(self) -> Tensor:
        """Return the vectors of all positions, (N, D)."""
        return self.table


class RowColumnPositions(nn.Module):
    """The sum of one vector per row and one per column; the paper's choice for 7×7 grids."""

    def __init__(self, grid_size: int, features: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(grid_size, features) * _INITIAL_STD)
        self.columns = nn.Parameter(torch.randn(grid_size, features) * _INITIAL_STD)

    def forward(self) -> Tensor:
        """Return the vectors of all positions, (N, D)."""
        grid = self.rows[:, None] + self.columns[None, :]  # (R, S, D)
        return grid.flatten(0, 1)  # (N, D)


def build_positions(config: ModelConfig, grid_size: int) -> TablePositions | RowColumnPositions:
    """Build the configured kind of positions, for a grid of `grid_size` by `grid_size`."""
    kind = TablePositions if config.positions == "table" else RowColumnPositions
    return kind(grid_size, config.features)
