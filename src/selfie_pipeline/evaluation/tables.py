"""The table of results: a mean and a standard deviation over the seeds found, never more than that.

A *cell* is the result of one finetuning, as a plain dictionary with the keys `CELL_KEYS`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd

from selfie_pipeline.evaluation.comparison import Spread, spread

Cell = Mapping[str, Any]

ARMS = {"supervised": "supervised", "selfie": "Selfie"}
"""The arms in the order shown, the baseline first, with the names shown."""

CELL_KEYS = (
    "data",  # the data set
    "network",  # in words
    "arm",  # a key of ARMS
    "labeled_frac",  # share of the training samples whose labels were seen, (0, 1]
    "labels",  # their number
    "seed",
    "accuracy",  # on the test split, a fraction
    "configuration",  # hash of all parameters but labeled_frac and seed
    "version",  # time stamp; later ones sort later
    "provenance",  # nested dictionary
)

_GROUP = ["data", "network", "labeled_frac", "labels"]
_COLUMNS = {
    "data": "str",
    "network": "str",
    "labeled_percent": "float64",
    "labels": "int64",
    "arm": "str",
    "seeds": "int64",
    "mean": "float64",
    "std": "float64",
    "pairs": "Int64",
    "difference": "float64",
    "difference_std": "float64",
    "difference_low": "float64",
    "difference_high": "float64",
    "paper_mean": "float64",
    "paper_std": "float64",
}


@dataclass(frozen=True)
class Selection:
    """Which of the cells found are used, and which are not, and why.

    Attributes:
        used: One cell for each data set, network, fraction, arm and seed.
        other_configuration: Left out: made with other parameters, so not comparable.
        superseded: Left out: the same cell was run again later. A seed counts once.
    """

    used: list[Cell]
    other_configuration: list[Cell]
    superseded: list[Cell]


def select(cells: Sequence[Cell], configurations: Collection[str]) -> Selection:
    """Choose the cells that may stand in one table.

    Args:
        cells: All that were found, in any order.
        configurations: The hashes of which a cell must carry one to be used.

    Returns:
        Every cell, in one of the three lists; each ordered by version.

    Raises:
        ValueError: A cell lacks one of `CELL_KEYS`, is of an unknown arm, or its accuracy is not
            a fraction.
    """
    for cell in cells:
        _check(cell)
    newest: dict[tuple[Any, ...], Cell] = {}
    other, superseded = [], []
    for cell in sorted(cells, key=lambda cell: str(cell["version"])):
        if cell["configuration"] not in configurations:
            other.append(cell)
            continue
        key = tuple(cell[name] for name in (*_GROUP, "arm", "seed"))
        if key in newest:
            superseded.append(newest.pop(key))
        newest[key] = cell
    return Selection(list(newest.values()), other, superseded)


def results_table(cells: Sequence[Cell]) -> pd.DataFrame:
    """Mean and standard deviation over the seeds found, with the paper's numbers beside them.

    Args:
        cells: Those that `select` found may be used.

    Returns:
        A row for each data set, network, labeled fraction and arm, the baseline above Selfie:

        - ``data``, ``network``, ``labeled_percent``, ``labels`` (number of labels), ``arm``
        - ``seeds`` (their number), ``mean``, ``std`` (sample standard deviation): test accuracy, %
        - ``pairs`` (number of seeds that both arms have), ``difference`` (mean of Selfie minus
          supervised over these seeds alone), ``difference_std``, and ``difference_low`` and
          ``difference_high`` (its 95 % interval, Student's t): percentage points; on Selfie's row
        - ``paper_mean``, ``paper_std``: the paper's test accuracy, %, over 5 seeds

        What does not exist is missing: a spread of fewer than two seeds, a difference without
        pairs, a number that the paper does not give. Without a cell, a table without rows.

    Raises:
        ValueError: Two cells are of the same seed and arm.
    """
    frame = pd.DataFrame([{key: cell[key] for key in CELL_KEYS} for cell in cells])
    rows = []
    for key, group in frame.groupby(_GROUP) if len(cells) else ():
        # pivot_table would average over a seed's duplicates in silence
        percent = 100 * group.pivot(index="seed", columns="arm", values="accuracy")  # noqa: PD010
        rows += [_row(key, arm, percent) for arm in ARMS if arm in percent]
    table = pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS)
    return _with_paper(table)


def paper_results() -> pd.DataFrame:
    """The paper's table: 3 data sets, 4 labeled fractions, 2 arms; ResNet-50, 5 seeds.

    Returns:
        24 rows: ``data``, ``labeled_frac``, ``arm``, ``mean`` and ``std`` (test accuracy, %).
    """
    with resources.files(__package__).joinpath("paper_results.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def _check(cell: Cell) -> None:
    """Refuse a cell that would give a wrong table, naming what is wrong."""
    missing = [key for key in CELL_KEYS if key not in cell]
    if missing:
        raise ValueError(f"a result lacks {', '.join(missing)}: {dict(cell)}")
    if cell["arm"] not in ARMS:
        raise ValueError(f"a result is of the arm {cell['arm']!r}; known: {', '.join(ARMS)}")
    if not 0 <= cell["accuracy"] <= 1:  # also catches NaN
        raise ValueError(f"a result's accuracy is {cell['accuracy']}, not a fraction: {dict(cell)}")


def _row(key: tuple[Any, ...], arm: str, percent: pd.DataFrame) -> dict[str, Any]:
    """One row of the table; `percent` holds the accuracies, a row a seed and a column an arm."""
    data, network, fraction, labels = key
    accuracy = spread(percent[arm].dropna())
    row = {
        "data": data,
        "network": network,
        "labeled_percent": round(100 * fraction, 6),  # 0.07 * 100 is 7.000000000000001
        "labels": labels,
        "arm": arm,
        "seeds": accuracy.n,
        "mean": accuracy.mean,
        "std": accuracy.std,
    }
    if arm == "selfie":
        gain = _gain(percent)
        row |= {
            "pairs": gain.n,
            "difference": gain.mean,
            "difference_std": gain.std,
            "difference_low": gain.low,
            "difference_high": gain.high,
        }
    return row


def _gain(percent: pd.DataFrame) -> Spread:
    """Selfie minus supervised over the seeds that both have; others would not compare like."""
    both = percent.reindex(columns=list(ARMS)).dropna()
    return spread(both["selfie"] - both["supervised"])


def _with_paper(table: pd.DataFrame) -> pd.DataFrame:
    """The same table with the paper's numbers, where it has the data set, fraction and arm."""
    paper = paper_results().set_index(["data", "labeled_frac", "arm"])
    # Fractions are the same if they agree to a tenth of a percent.
    keys = zip(table["data"], (table["labeled_percent"] / 100).round(3), table["arm"], strict=True)
    found = paper.reindex(pd.MultiIndex.from_tuples(list(keys), names=paper.index.names))
    return table.assign(
        paper_mean=found["mean"].to_numpy(np.float64), paper_std=found["std"].to_numpy(np.float64)
    )
