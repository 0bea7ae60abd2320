"""Tables of results: means and standard deviations over seeds, and comparisons of the arms.

Cells that also have "correct" (from `scores.pack_correct`) and "test_samples" (the number of test
samples) are also compared prediction by prediction.
"""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd

from selfie_pipeline.evaluation.convergence import has_converged
from selfie_pipeline.evaluation.scores import unpack_correct
from selfie_pipeline.evaluation.selection import (
    CELL_KEYS,
    GROUP_KEYS,
    Cell,
    Selection,
    select_cells,
)
from selfie_pipeline.evaluation.statistics import (
    Summary,
    mcnemar_test,
    paired_permutation_p,
    paired_t_p,
    ratio_of_stds,
    summarise,
)

ARMS = {
    "supervised": "supervised",
    "selfie": "Selfie",
    "weights": "given weights",
    "weights_selfie": "given weights, Selfie",
}
"""Display names of the arms in display order, the baseline first."""

_RESULT_COLUMNS = {
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
    "converged": "boolean",
    "held_out_half_difference": "float64",
    "held_out_difference": "float64",
    "over_weights_pairs": "Int64",
    "over_weights": "float64",
    "over_weights_low": "float64",
    "over_weights_high": "float64",
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
_HELD_OUT = ("held_out_half", "held_out")


def build_results_table(cells: Sequence[Cell]) -> pd.DataFrame:
    """Tabulate means and standard deviations over seeds, with the paper's results.

    Args:
        cells: Comparable cells, `Selection.used`; at least one. They are of one data set and one
            network.

    Returns:
        One row per labeled fraction and arm, the baseline above the others:

        - ``data`` and ``network`` (as the latest cell names them), ``labeled_percent``, ``labels``
          (number of labels), ``arm``
        - ``seeds`` (their number), ``mean``, ``std`` (sample standard deviation): test accuracy, %
        - ``pairs`` (number of seeds that supervised has too), ``difference`` (mean of the arm minus
          supervised over these seeds), ``difference_std``, and ``difference_low`` and
          ``difference_high`` (its 95 % confidence interval, Student's t): percentage points. Like
          every comparison with the baseline, they are missing in its own row.
        - ``t_p`` and ``permutation_p``: p values of the paired tests of that difference
        - ``std_ratio``, ``std_ratio_low``, ``std_ratio_high``: supervised's ``std`` over the arm's,
          with its 95 % confidence interval (F test); above 1 if the arm varies less between seeds
        - ``gained`` and ``lost``: number of predictions, pooled over the paired seeds, that only
          the arm and only supervised gets right; ``mcnemar_p``: McNemar's test of them (see
          `statistics.mcnemar_test` for the effect of pooling)
        - ``converged``: whether all trainings of the row have (`convergence.has_converged`)
        - ``held_out_half_difference`` and ``held_out_difference``: mean differences of the paired
          seeds' accuracy on held-out training samples at half of the steps and after the last:
          percentage points
        - ``over_weights_pairs``, ``over_weights``, ``over_weights_low`` and ``over_weights_high``:
          the same as ``pairs``, ``difference``, ``difference_low`` and ``difference_high``, of the
          arm ``weights_selfie`` minus the arm ``weights``
        - ``paper_mean``, ``paper_std``: the paper's test accuracy, %, over 5 seeds;
          ``paper_std_ratio``: the ratio of the paper's rounded standard deviations

        Undefined values are missing: statistics and tests of fewer than two seeds, a difference
        without pairs, a comparison of what a paired cell lacks, and numbers that the paper does not
        report.
    """
    rows = []
    for key, group in _build_frame(cells).groupby(GROUP_KEYS):
        by_arm = {str(arm): part for arm, part in group.groupby("arm")}
        for arm in order_arms(by_arm):
            ours = by_arm[arm]
            accuracy = summarise(ours["percent"])
            row = {"arm": arm, "seeds": accuracy.n, "mean": accuracy.mean, "std": accuracy.std}
            row["converged"] = ours["converged"].all(skipna=False)
            if arm != "supervised":
                row |= _compare_arms(ours, by_arm.get("supervised", group.iloc[:0]))
            if arm == "weights_selfie" and "weights" in by_arm:
                row |= _compare_with_weights(ours, by_arm["weights"])
            rows.append(_describe_group(key) | row)
    table = _add_paper_results(pd.DataFrame(rows).assign(**_name_data(cells)))
    return table.reindex(columns=list(_RESULT_COLUMNS)).astype(_RESULT_COLUMNS)


def compute_gains(selection: Selection) -> pd.DataFrame:
    """Tabulate the gain from pretraining by the number of images used for pretraining.

    Args:
        selection: From `select_cells`. Besides the used cells, the table includes Selfie cells with
            another configuration that differs only in the number of pretraining images
            (provenance["configuration"]["pretrain"]["images"]), of one encoder for each number.
            The actual number is provenance["pretraining_images"].

    Returns:
        One row per labeled fraction and number of images that shares a seed with the baseline:
        ``data``, ``network``, ``labeled_percent``, ``labels``, ``images``, ``ratio`` (images per
        label), ``pairs``, ``difference``, ``difference_low`` and ``difference_high`` (see
        `build_results_table`). Without such cells the table has no rows.
    """
    used = [cell for cell in selection.used if cell["arm"] == "selfie"]
    comparable = {_key_without_images(cell) for cell in used}
    by_images: dict[int, list[Cell]] = {}
    for cell in [*selection.other_configuration, *used]:
        if cell["arm"] == "selfie" and _key_without_images(cell) in comparable:
            images = cell["provenance"]["pretraining_images"]
            by_images.setdefault(images, []).append(cell)
    baseline = {
        (*(cell[name] for name in GROUP_KEYS), cell["seed"]): cell["accuracy"]
        for cell in selection.used
        if cell["arm"] == "supervised"
    }
    differences: dict[tuple[Any, ...], list[float]] = {}
    for images, those in by_images.items():
        for cell in select_cells(those, {cell["configuration"] for cell in those}, used).used:
            group = [cell[name] for name in GROUP_KEYS]
            if (*group, cell["seed"]) in baseline:
                difference = 100 * (cell["accuracy"] - baseline[*group, cell["seed"]])
                differences.setdefault((*group, images), []).append(difference)
    rows = []
    for (*key, images), points in sorted(differences.items()):
        group_columns = _describe_group(key)
        ratio = images / group_columns["labels"]
        difference_columns = _describe_difference(summarise(points))
        rows.append(group_columns | {"images": images, "ratio": ratio} | difference_columns)
    table = pd.DataFrame(rows, columns=list(_GAIN_COLUMNS))
    return table.assign(**_name_data(selection.used)).astype(_GAIN_COLUMNS)


def has_one_seed(table: pd.DataFrame) -> bool:
    """Return True if a mean or a difference of a results table is of fewer than two seeds."""
    return bool((table[["seeds", "pairs"]] < 2).any(axis=None))  # noqa: PLR2004


def order_arms(arms: Container[str]) -> list[str]:
    """Return the given arms in display order, the baseline first."""
    return [arm for arm in ARMS if arm in arms]


def load_paper_results() -> pd.DataFrame:
    """Load the paper's results: 3 data sets, 4 labeled fractions, 2 arms; ResNet-50, 5 seeds.

    Returns:
        24 rows: ``data``, ``labeled_frac``, ``arm``, ``mean`` and ``std`` (test accuracy, %).
    """
    with resources.files(__package__).joinpath("paper_results.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def _build_frame(cells: Sequence[Cell]) -> pd.DataFrame:
    """Return one row per cell; its seed is the index, which ascends.

    The columns are `CELL_KEYS`; "percent", the accuracy; and what only some cells have, else
    missing: "correct", a (N,) bool array; "converged", a bool; "held_out_half" and "held_out", %.
    """
    correct = [
        unpack_correct(cell["correct"], cell["test_samples"]) if "correct" in cell else None
        for cell in cells
    ]
    training = [cell["provenance"].get("training") or {} for cell in cells]
    converged = [has_converged(ending) if ending else None for ending in training]
    frame = pd.DataFrame([{key: cell[key] for key in CELL_KEYS} for cell in cells])
    frame = frame.assign(
        percent=100 * frame["accuracy"],
        correct=pd.Series(correct, dtype=object),
        converged=pd.Series(converged, dtype="boolean"),
        **{
            name: 100 * pd.Series([ending.get(name) for ending in training], dtype="float64")
            for name in _HELD_OUT
        },
    )
    return frame.set_index("seed").sort_index()


def _name_data(cells: Sequence[Cell]) -> dict[str, str]:
    """Return the columns that name the data set and the network of comparable cells."""
    latest = max(cells, key=lambda cell: str(cell["version"]))
    return {"data": latest["data"], "network": latest["network"]}


def _describe_group(key: Sequence[Any]) -> dict[str, Any]:
    """Return the columns for the values of `GROUP_KEYS`."""
    fraction, labels = key
    percent = round(100 * fraction, 6)  # 0.07 * 100 is 7.000000000000001
    return {"labeled_percent": percent, "labels": labels}


def _compare_arms(ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, Any]:
    """Return the columns that compare an arm with the baseline, each from `_build_frame`."""
    ratio, low, high = ratio_of_stds(theirs["percent"], ours["percent"])
    seeds = ours.index.intersection(theirs.index)
    ours, theirs = ours.loc[seeds], theirs.loc[seeds]
    differences = ours["percent"] - theirs["percent"]
    return {
        **_describe_difference(summarise(differences)),
        "t_p": paired_t_p(differences),
        "permutation_p": paired_permutation_p(differences),
        "std_ratio": ratio,
        "std_ratio_low": low,
        "std_ratio_high": high,
        **_compare_predictions(ours["correct"], theirs["correct"]),
        **{
            f"{name}_difference": (ours[name] - theirs[name]).mean(skipna=False)
            for name in _HELD_OUT
        },
    }


def _compare_with_weights(ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, Any]:
    """Return the columns that compare given weights with and without pretraining on top."""
    difference = summarise((ours["percent"] - theirs["percent"]).dropna())
    return {
        "over_weights_pairs": difference.n,
        "over_weights": difference.mean,
        "over_weights_low": difference.low,
        "over_weights_high": difference.high,
    }


def _describe_difference(difference: Summary) -> dict[str, Any]:
    return {
        "pairs": difference.n,
        "difference": difference.mean,
        "difference_std": difference.std,
        "difference_low": difference.low,
        "difference_high": difference.high,
    }


def _compare_predictions(ours: pd.Series[Any], theirs: pd.Series[Any]) -> dict[str, Any]:
    """Run McNemar's test on the paired seeds' predictions, if they are known for every cell."""
    if len(ours) < 2 or ours.isna().any() or theirs.isna().any():  # noqa: PLR2004
        return {}
    gained, lost, p = mcnemar_test(*(np.concatenate(part.tolist()) for part in (ours, theirs)))
    return {"gained": gained, "lost": lost, "mcnemar_p": p}


def _key_without_images(cell: Cell) -> str:
    """Return a key for everything a Selfie cell depends on but the number of pretraining images."""
    provenance = cell["provenance"]
    configuration = provenance.get("configuration", {})
    pretrain = {k: v for k, v in configuration.get("pretrain", {}).items() if k != "images"}
    kept = [cell["labeled_frac"], provenance.get("data"), configuration | {"pretrain": pretrain}]
    return json.dumps(kept, sort_keys=True)


def _add_paper_results(table: pd.DataFrame) -> pd.DataFrame:
    """Add the paper's numbers for the same data set, fraction and arm, where they exist."""
    keys = ["data", "labeled_frac", "arm"]
    paper = load_paper_results().set_index(keys).add_prefix("paper_")
    baseline = paper["paper_std"].xs("supervised", level="arm")
    ratio = (baseline / paper["paper_std"]).drop("supervised", level="arm")
    paper = paper.assign(paper_std_ratio=ratio)
    # Fractions match if they agree to a tenth of a percent.
    return table.assign(labeled_frac=(table["labeled_percent"] / 100).round(3)).join(paper, on=keys)
