"""The selection of the finetunings' results that may be compared.

A *cell* is the result of one finetuning, a plain dictionary with the keys `CELL_KEYS`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Cell = Mapping[str, Any]

CELL_KEYS = (
    "data",  # name of the data set
    "network",  # description of the network
    "arm",  # a key of `tables.ARMS`
    "labeled_frac",  # share of the training samples that are labeled, (0, 1]
    "labels",  # their number
    "seed",
    "accuracy",  # on the test split, a fraction
    "configuration",  # hash of all parameters except labeled_frac and seed
    "version",  # time stamp that sorts chronologically
    "provenance",  # nested dictionary
)
GROUP_KEYS = ["labeled_frac", "labels"]
"""Keys whose values are equal in cells that are compared with one another."""


@dataclass(frozen=True)
class Selection:
    """Cells divided into those that are used and those that are left out.

    Attributes:
        used: One cell per fraction, arm and seed.
        other_configuration: Cells with other parameters, which are not comparable.
        other_encoder_or_tuning: Cells of another encoder or with other tuned values.
        superseded: Cells that were run again later with the same seed.
    """

    used: list[Cell]
    other_configuration: list[Cell]
    other_encoder_or_tuning: list[Cell]
    superseded: list[Cell]


def select_cells(
    cells: Sequence[Cell], configurations: Collection[str], shown: Sequence[Cell] = ()
) -> Selection:
    """Select the cells that may be compared in one table.

    The seeds of a row share their encoder and their tuned values: those of the cells in `shown`, or
    else those of the latest cell.

    Args:
        cells: All cells, in any order.
        configurations: Hashes of the configurations to use.
        shown: Cells of different arms that are used even if they were run again later.

    Returns:
        Every cell in one of four lists, each ordered by version.
    """
    ordered = sorted(cells, key=lambda cell: str(cell["version"]))
    comparable = [cell for cell in ordered if cell["configuration"] in configurations]
    # Of cells with the same key, the last one counts.
    encoders = {
        _encoder_key(cell): cell["provenance"].get("encoder") for cell in [*comparable, *shown]
    }
    same = [
        cell
        for cell in comparable
        if cell["provenance"].get("encoder") == encoders[_encoder_key(cell)]
    ]
    tuned = {_row_key(cell): cell["provenance"].get("tuned") for cell in [*same, *shown]}
    same = [cell for cell in same if cell["provenance"].get("tuned") == tuned[_row_key(cell)]]
    classifiers = {cell["provenance"].get("classifier") for cell in shown}
    shown_last = sorted(same, key=lambda cell: cell["provenance"].get("classifier") in classifiers)
    latest = {(*_row_key(cell), cell["seed"]): cell for cell in shown_last}
    same_ids, used_ids = ({id(cell) for cell in some} for some in (same, latest.values()))
    return Selection(
        used=[cell for cell in same if id(cell) in used_ids],
        other_configuration=[
            cell for cell in ordered if cell["configuration"] not in configurations
        ],
        other_encoder_or_tuning=[cell for cell in comparable if id(cell) not in same_ids],
        superseded=[cell for cell in same if id(cell) not in used_ids],
    )


def _encoder_key(cell: Cell) -> tuple[Any, ...]:
    """Return the key of the cells that must have the same encoder."""
    return cell["arm"], cell["configuration"]


def _row_key(cell: Cell) -> tuple[Any, ...]:
    """Return what the cells of one row of the table share."""
    return (*(cell[name] for name in GROUP_KEYS), cell["arm"])
