"""The table of results: a mean and a standard deviation over the seeds found, never more than that.

A *cell* is the result of one finetuning, as a plain dictionary with the keys `CELL_KEYS`. Where it
also has "correct", as `scores.pack_correct` makes it, and their number "test_samples", the arms are
compared answer by answer.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd

from selfie_pipeline.evaluation.scores import unpack_correct
from selfie_pipeline.evaluation.statistics import (
    Spread,
    mcnemar_test,
    paired_permutation_p,
    paired_t_p,
    ratio_of_stds,
    spread,
)

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
    "t_p": "float64",
    "permutation_p": "float64",
    "std_ratio": "float64",
    "std_ratio_low": "float64",
    "std_ratio_high": "float64",
    "gained": "Int64",
    "lost": "Int64",
    "mcnemar_p": "float64",
    "paper_mean": "float64",
    "paper_std": "float64",
    "paper_std_ratio": "float64",
}
_GAIN_COLUMNS = {
    "data": "str",
    "network": "str",
    "labeled_percent": "float64",
    "labels": "int64",
    "images": "int64",
    "ratio": "float64",
    "pairs": "int64",
    "difference": "float64",
    "difference_low": "float64",
    "difference_high": "float64",
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
          ``difference_high`` (its 95 % interval, Student's t): percentage points; on Selfie's row,
          as all that compares the arms
        - ``t_p`` and ``permutation_p``: p values of the paired tests of that difference
        - ``std_ratio``, ``std_ratio_low``, ``std_ratio_high``: supervised's ``std`` over Selfie's,
          with its 95 % interval (F test); more than 1 where pretraining makes runs more alike
        - ``gained`` and ``lost``: answers, pooled over the paired seeds, that Selfie alone and that
          supervised alone has right; ``mcnemar_p``: McNemar's test of them (see
          `comparison.mcnemar_test` on what pooling does to it)
        - ``paper_mean``, ``paper_std``: the paper's test accuracy, %, over 5 seeds;
          ``paper_std_ratio``: as ``std_ratio``, of the paper's rounded deviations

        What does not exist is missing: a spread or test of fewer than two seeds, a difference
        without pairs, a comparison of answers that a paired cell does not have, a number that the
        paper does not give. Without a cell, a table without rows.

    Raises:
        ValueError: Two cells are of the same seed and arm.
    """
    frame = _frame(cells)
    rows = []
    for key, group in frame.groupby(_GROUP) if len(cells) else ():
        # pivot_table would average over a seed's duplicates in silence
        percent = 100 * group.pivot(index="seed", columns="arm", values="accuracy")  # noqa: PD010
        answers = group.pivot(index="seed", columns="arm", values="answers")  # noqa: PD010
        for arm in in_order(percent):
            row = _describe(key) | {"arm": arm} | _accuracy(percent[arm])
            rows.append(row | (_comparison(percent, answers) if arm == "selfie" else {}))
    table = pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS)
    return _with_paper(table)


def gains_over_ratio(selection: Selection) -> pd.DataFrame:
    """What pretraining gains, over the number of images that it was done on.

    Args:
        selection: As `select` makes it. Besides the cells used, those of Selfie enter that were
            left out because they were pretrained on another number of images
            (provenance["configuration"]["pretrain"]["images"]) and differ in nothing else. How
            many it really were is provenance["pretraining_images"]; a cell without it stays out.

    Returns:
        A row for each data set, network, labeled fraction and number of images that has a seed in
        common with the baseline: ``data``, ``network``, ``labeled_percent``, ``labels``,
        ``images``, ``ratio`` (images over labels), ``pairs``, ``difference``, ``difference_low``
        and ``difference_high`` as in `results_table`. Without such a cell, no rows.
    """
    used = [cell for cell in selection.used if cell["arm"] == "selfie"]
    alike = {_all_but_images(cell) for cell in used}
    newest: dict[tuple[Any, ...], Cell] = {}
    for cell in [*selection.other_configuration, *used]:  # each in the order of its versions
        images = cell["provenance"].get("pretraining_images")
        if images is not None and cell["arm"] == "selfie" and _all_but_images(cell) in alike:
            newest[*(cell[name] for name in _GROUP), images, cell["seed"]] = cell
    baseline = {
        (*(cell[name] for name in _GROUP), cell["seed"]): cell["accuracy"]
        for cell in selection.used
        if cell["arm"] == "supervised"
    }
    differences: dict[tuple[Any, ...], list[float]] = {}
    for (*group, images, seed), cell in newest.items():
        if (*group, seed) in baseline:
            difference = 100 * (cell["accuracy"] - baseline[*group, seed])
            differences.setdefault((*group, images), []).append(difference)
    rows = []
    for (*key, images), of_seeds in sorted(differences.items()):
        gain = spread(of_seeds)
        described = _describe(key)
        described |= {"images": images, "ratio": images / described["labels"]}
        rows.append(described | _gain(gain))
    return pd.DataFrame(rows, columns=list(_GAIN_COLUMNS)).astype(_GAIN_COLUMNS)


def in_order(arms: Container[str]) -> list[str]:
    """Those of the arms that there are, the baseline first."""
    return [arm for arm in ARMS if arm in arms]


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


def _frame(cells: Sequence[Cell]) -> pd.DataFrame:
    """A row a cell: its keys, and as "answers" whether each is right, or None where not known."""
    answers = [
        unpack_correct(cell["correct"], cell["test_samples"]) if "correct" in cell else None
        for cell in cells
    ]
    frame = pd.DataFrame([{key: cell[key] for key in CELL_KEYS} for cell in cells])
    return frame.assign(answers=pd.Series(answers, dtype=object))


def _describe(key: Sequence[Any]) -> dict[str, Any]:
    """What was run: the values of `_GROUP`, as the table names them."""
    data, network, fraction, labels = key
    percent = round(100 * fraction, 6)  # 0.07 * 100 is 7.000000000000001
    return {"data": data, "network": network, "labeled_percent": percent, "labels": labels}


def _accuracy(percent: pd.Series[float]) -> dict[str, Any]:
    """One arm's part of a row."""
    accuracy = spread(percent.dropna())
    return {"seeds": accuracy.n, "mean": accuracy.mean, "std": accuracy.std}


def _comparison(percent: pd.DataFrame, answers: pd.DataFrame) -> dict[str, Any]:
    """Selfie's part of a row; both tables have a row a seed and a column an arm."""
    percent, answers = (found.reindex(columns=list(ARMS)) for found in (percent, answers))
    both = percent.dropna()  # the seeds that both have; others would not compare like with like
    ratio = ratio_of_stds(percent["supervised"].dropna(), percent["selfie"].dropna())
    return {
        **_gain(spread(both["selfie"] - both["supervised"])),
        "t_p": paired_t_p(both["selfie"], both["supervised"]),
        "permutation_p": paired_permutation_p(both["selfie"], both["supervised"]),
        "std_ratio": ratio.value,
        "std_ratio_low": ratio.low,
        "std_ratio_high": ratio.high,
        **_answers(answers.loc[both.index]),
    }


def _gain(gain: Spread) -> dict[str, Any]:
    """Selfie minus supervised, as the table names it."""
    return {
        "pairs": gain.n,
        "difference": gain.mean,
        "difference_std": gain.std,
        "difference_low": gain.low,
        "difference_high": gain.high,
    }


def _answers(answers: pd.DataFrame) -> dict[str, Any]:
    """McNemar's test of the paired seeds' answers, if all of them are known."""
    if len(answers) < 2 or answers.isna().any(axis=None):  # noqa: PLR2004
        return {}
    ours, theirs = (np.concatenate(answers[arm].tolist()) for arm in ("selfie", "supervised"))
    found = mcnemar_test(ours, theirs)
    return {"gained": found.gained, "lost": found.lost, "mcnemar_p": found.p}


def _all_but_images(cell: Cell) -> str:
    """What a cell of Selfie was made with, aside from the number of images it was pretrained on."""
    provenance = cell["provenance"]
    configuration = provenance.get("configuration", {})
    pretrain = {k: v for k, v in configuration.get("pretrain", {}).items() if k != "images"}
    kept = [cell["labeled_frac"], provenance.get("data"), configuration | {"pretrain": pretrain}]
    return json.dumps(kept, sort_keys=True)


def _with_paper(table: pd.DataFrame) -> pd.DataFrame:
    """The same table with the paper's numbers, where it has the data set, fraction and arm."""
    paper = paper_results().set_index(["data", "labeled_frac", "arm"])
    spreads = paper["std"].unstack("arm")  # noqa: PD010  # each key is there once
    ratio = (spreads["supervised"] / spreads["selfie"]).to_frame("std_ratio")
    paper = paper.join(ratio.assign(arm="selfie").set_index("arm", append=True))
    # Fractions are the same if they agree to a tenth of a percent.
    keys = zip(table["data"], (table["labeled_percent"] / 100).round(3), table["arm"], strict=True)
    found = paper.reindex(pd.MultiIndex.from_tuples(list(keys), names=paper.index.names))
    found = found.reset_index(drop=True)
    return table.assign(
        paper_mean=found["mean"],
        paper_std=found["std"],
        paper_std_ratio=found["std_ratio"],
    )
