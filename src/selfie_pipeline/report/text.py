"""Results in words: the verdict, and the table as Markdown and for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from selfie_pipeline.evaluation.tables import ARMS

NOTHING = "–"
"""Stands where a number would be if there were enough seeds for it."""

PAPER_SEEDS = 5
DIFFERENCE = "Difference, points (95 %)"
PAPER = f"Paper (n = {PAPER_SEEDS})"
ANSWERS = "Right alone, Selfie : supervised"
DEVIATIONS = "Deviations, ratio (95 %)"
PAPERS_RATIO = "Paper's ratio"
_TERMINAL_COLUMNS = 100


class Row(NamedTuple):
    """One row of `tables.results_table`."""

    data: str
    network: str
    labeled_percent: float
    labels: int
    arm: str
    seeds: int
    mean: float
    std: float
    pairs: int
    difference: float
    difference_std: float
    difference_low: float
    difference_high: float
    t_p: float
    permutation_p: float
    std_ratio: float
    std_ratio_low: float
    std_ratio_high: float
    gained: int
    lost: int
    mcnemar_p: float
    paper_mean: float
    paper_std: float
    paper_std_ratio: float


def verdict(table: pd.DataFrame) -> str:
    """Whether pretraining helped, by how much, and how sure that is.

    Pretraining is said to have helped, or the baseline to have won, only where the 95 % interval
    of the difference leaves out zero.

    Args:
        table: As `tables.results_table` makes it.

    Returns:
        One sentence, for people.
    """
    rows = list(_rows(table[table["arm"] == "selfie"]))
    evidence = _full_evidence if len(rows) == 1 else _short_evidence
    findings: dict[str, list[str]] = {}
    for row in rows:
        findings.setdefault(_finding(row), []).append(evidence(row))
    if not findings:
        return "Pretraining was not tested: there is no result of Selfie with this configuration."
    clauses = [f"{said}: {', '.join(places)}" for said, places in findings.items()]
    sentence = "; ".join(clauses)
    return sentence[0].upper() + sentence[1:] + "."


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table as people read it.

    Args:
        table: As `tables.results_table` makes it.

    Returns:
        The same rows, all columns strings: ``Data set``, ``Network``, ``Labeled``, ``Arm``,
        ``Accuracy, %`` such as "85.8 ± 0.9 (n = 4)", ``Difference, points (95 %)`` such as
        "+6.5 (+4.1 to +8.9; n = 4)", ``Paper (n = 5)``. What too few seeds cannot say is left
        out; a dash is a difference without a seed in common.
    """
    rows = [
        {
            "Data set": row.data,
            "Network": row.network,
            "Labeled": _labeled(row),
            "Arm": ARMS[row.arm],
            "Accuracy, %": _mean_and_std(row.mean, row.std, row.seeds),
            DIFFERENCE: _difference(row) if row.arm == "selfie" else "",
            PAPER: f"{row.paper_mean:.1f} ± {row.paper_std:.1f}"
            if pd.notna(row.paper_mean)
            else "",
        }
        for row in _rows(table)
    ]
    columns = ["Data set", "Network", "Labeled", "Arm", "Accuracy, %", DIFFERENCE, PAPER]
    return pd.DataFrame(rows, columns=columns, dtype=str)


def significance_table(table: pd.DataFrame) -> pd.DataFrame:
    """What the tests say of each comparison, as people read it.

    Args:
        table: As `tables.results_table` makes it.

    Returns:
        A row for each of Selfie's rows with two seeds or more, all columns strings: ``Data set``,
        ``Network``, ``Labeled``, ``Pairs`` (of seeds), ``t test`` and ``Permutation`` (p values of
        the paired tests), ``Right alone, Selfie : supervised`` (answers, pooled), ``McNemar`` (p
        value of these), ``Deviations, ratio (95 %)`` (supervised's over Selfie's) and ``Paper's
        ratio``. What cannot be said is empty.
    """
    rows = [
        {
            "Data set": row.data,
            "Network": row.network,
            "Labeled": _labeled(row),
            "Pairs": str(row.pairs),
            "t test": _p_value(row.t_p),
            "Permutation": _p_value(row.permutation_p),
            ANSWERS: "" if pd.isna(row.gained) else f"{row.gained:,} : {row.lost:,}",
            "McNemar": _p_value(row.mcnemar_p),
            DEVIATIONS: _ratio(row),
            PAPERS_RATIO: _number(row.paper_std_ratio),
        }
        for row in _rows(table[table["arm"] == "selfie"])
        if row.pairs > 1 or pd.notna(row.std_ratio)
    ]
    columns = ["Data set", "Network", "Labeled", "Pairs", "t test", "Permutation", ANSWERS]
    columns += ["McNemar", DEVIATIONS, PAPERS_RATIO]
    return pd.DataFrame(rows, columns=columns, dtype=str)


def to_markdown(table: pd.DataFrame) -> str:
    """The table and what the tests say of it, as Markdown.

    Args:
        table: As `tables.results_table` makes it.

    Returns:
        A pipe table with a line for the head, one for the alignment and one a row; after an empty
        line another one as `significance_table` makes it, where there are two seeds or more.
    """
    sure = significance_table(table)
    return _markdown(readable(table)) + (f"\n{_markdown(sure)}" if len(sure) else "")


def _markdown(text: pd.DataFrame) -> str:
    lines = [list(text.columns), ["---"] * len(text.columns), *text.to_numpy().tolist()]
    return "".join(f"| {' | '.join(map(_markdown_cell, line))} |\n" for line in lines)


def summary(table: pd.DataFrame) -> str:
    """The table for the terminal.

    Args:
        table: As `tables.results_table` makes it.

    Returns:
        Lines of at most 100 columns; ASCII but for the names of data sets and networks.
    """
    text = readable(table)
    if text.empty:
        return "no results with this configuration\n"
    return "\n".join(
        f"{title}: test accuracy"[:_TERMINAL_COLUMNS] + f"\n{_aligned(rows)}"
        for title, rows in blocks(text)
    )


def blocks(text: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Cut the readable table up, for where there is little width.

    Args:
        text: As `readable` makes it.

    Returns:
        For each data set and network: a title that names them, and its rows without these two
        columns and without empty ones.
    """
    names = ["Data set", "Network"]
    parts = []
    for (data, network), group in text.groupby(names, sort=False):
        rows = group.drop(columns=names)
        parts.append((f"{data}, {network}", rows.loc[:, (rows != "").any()]))
    return parts


def _rows(table: pd.DataFrame) -> Iterable[Row]:
    """The rows, typed."""
    whole = table[list(Row._fields)].astype(
        {"pairs": "Int64", "gained": "Int64", "lost": "Int64"}  # from CSV they come as floats
    )
    return (Row(*values) for values in whole.itertuples(index=False, name=None))


def _finding(row: Row) -> str:
    """What one comparison says, without its numbers."""
    if row.pairs == 0:
        return "Selfie and the baseline have no seed in common and cannot be compared"
    ahead = "pretraining" if row.difference > 0 else "the baseline"
    if pd.isna(row.difference_low):
        lead = f"{ahead} came out ahead" if row.difference else "both arms came out equal"
        if row.pairs == 1:
            return f"with one seed, which says little, {lead}"
        return f"with the same difference at every seed, which leaves no interval, {lead}"
    if row.difference_low > 0:
        return "pretraining helped"
    if row.difference_high < 0:
        return "the baseline won, pretraining hurt"
    return "pretraining made no difference that these seeds can show"


def _full_evidence(row: Row) -> str:
    """Where the one finding was made, and its numbers."""
    place = f"{row.labeled_percent:g} % of the labels ({row.labels:,})"
    if row.pairs == 0:
        return place
    points = f"{_signed(row.difference)} points with {place}"
    if row.pairs == 1:
        return points
    interval = f" (95 % interval {_interval(row)})" if pd.notna(row.difference_low) else ""
    return f"{points}, over {row.pairs} seeds{interval}"


def _short_evidence(row: Row) -> str:
    """The same as one of several: the intervals are left to the table."""
    place = f"{row.labeled_percent:g} % of the labels (n = {row.pairs})"
    return f"{_signed(row.difference)} points with {place}" if row.pairs else place


def _difference(row: Row) -> str:
    """Such as "+6.5 (+4.1 to +8.9; n = 4)"."""
    if row.pairs == 0:
        return f"{NOTHING} (n = 0)"
    interval = f"{_interval(row)}; " if pd.notna(row.difference_low) else ""
    return f"{_signed(row.difference)} ({interval}n = {row.pairs})"


def _interval(row: Row) -> str:
    """Such as "+4.1 to +8.9"."""
    return f"{_signed(row.difference_low)} to {_signed(row.difference_high)}"


def _labeled(row: Row) -> str:
    """Such as "5 % (63)"."""
    return f"{row.labeled_percent:g} % ({row.labels:,})"


def _p_value(p: float) -> str:
    """Such as "0.013"."""
    if pd.isna(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"  # noqa: PLR2004


def _ratio(row: Row) -> str:
    """Such as "2.4 (0.79 to 7.5)"."""
    if pd.isna(row.std_ratio):
        return ""
    low, high = _number(row.std_ratio_low), _number(row.std_ratio_high)
    return f"{_number(row.std_ratio)} ({low} to {high})"


def _number(value: float) -> str:
    """A ratio with two digits that count, such as "0.79", "2.4" and "13"."""
    if pd.isna(value):
        return ""
    return f"{value:,.{max(0, 1 - math.floor(math.log10(value)))}f}"


def _mean_and_std(mean: float, std: float, seeds: int) -> str:
    """Such as "85.8 ± 0.9 (n = 4)"; "85.8 (n = 1)" where there is no deviation."""
    return f"{mean:.1f}{'' if pd.isna(std) else f' ± {std:.1f}'} (n = {seeds})"


def _signed(points: float) -> str:
    """With a sign and a true minus; what rounds to nothing has none."""
    text = f"{points:+.1f}"
    return "0.0" if text in {"+0.0", "-0.0"} else text.replace("-", "−")


def _markdown_cell(text: object) -> str:
    """Text that cannot end its cell or its line."""
    return " ".join(str(text).replace("\\", "\\\\").replace("|", "\\|").split())


def _aligned(text: pd.DataFrame) -> str:
    """Columns of equal width, in ASCII."""
    ascii_signs = str.maketrans({"±": "+/-", NOTHING: "-", "−": "-"})
    lines = [list(text.columns), *text.to_numpy().tolist()]
    plain = [[str(cell).translate(ascii_signs) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*plain, strict=True)]
    rule = ["-" * width for width in widths]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (plain[0], rule, *plain[1:])
    )
    return "".join(f"{line}\n" for line in padded)
