"""Results as text: the verdict, and tables as Markdown and for the terminal.

The tables of results are from `tables.build_results_table`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from selfie_pipeline.evaluation.tables import ARMS, order_arms

MISSING = "–"
"""Placeholder for a missing value."""

PAPER_SEEDS = 5
_ON_TOP = "pretraining on top"
"""In place of an arm: `weights_selfie`, compared with `weights`."""
_SUBJECTS = {
    "selfie": "pretraining",
    "weights": "a start from the given weights",
    "weights_selfie": "a start from the given weights with pretraining on top",
    _ON_TOP: "pretraining on top of the given weights",
}
_TERMINAL_COLUMNS = 100


Row = Any
"""A row of the table from `tables.build_results_table`, with its columns as attributes."""


def verdict(table: pd.DataFrame) -> str:
    """Summarise whether pretraining helped, with the evidence: in a sentence for each arm.

    A sentence claims an effect only if the 95 % confidence interval of the difference excludes
    zero. It says whether the finetuning of its arm and of the baseline has converged, where that is
    known: a difference before that may be a head start. The arm that adds pretraining to given
    weights has a second sentence, which compares it with these weights alone.
    """
    sentences = [_summarise_arm(table, arm) for arm in compared_arms(table)]
    if "weights_selfie" in compared_arms(table):  # tables of earlier commits lack the columns
        on_top = _compare_with_weights(table)
        if _ON_TOP in set(on_top["arm"]):
            sentences.append(_summarise_arm(on_top, _ON_TOP))
    return " ".join(sentences)


def compared_arms(table: pd.DataFrame) -> list[str]:
    """Return the arms of the table that are compared with the baseline, in display order."""
    return [arm for arm in order_arms(set(table["arm"])) if arm != "supervised"]


def name_compared(table: pd.DataFrame) -> str:
    """Return the display name of the compared arm, or "the arm" if there are several."""
    arms = compared_arms(table)
    return ARMS[arms[0]] if len(arms) == 1 else "the arm"


def _summarise_arm(table: pd.DataFrame, arm: str) -> str:
    rows = list(_rows(table[table["arm"] == arm]))
    in_table = arm != _ON_TOP and (len(rows) > 1 or len(compared_arms(table)) > 1)
    format_evidence = _format_short_evidence if in_table else _format_full_evidence
    evidence: dict[str, list[str]] = {}
    for row in rows:
        finding = f"{_format_convergence(row, table)}{_format_finding(row)}"
        evidence.setdefault(finding, []).append(format_evidence(row))
    sentence = "; ".join(f"{finding}: {', '.join(parts)}" for finding, parts in evidence.items())
    return sentence[0].upper() + sentence[1:] + "."


def _compare_with_weights(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with given weights as a table whose baseline are the weights alone."""
    given = table[table["arm"].isin(["weights", "weights_selfie"])]
    compared = given.assign(
        arm=given["arm"].map({"weights": "supervised", "weights_selfie": _ON_TOP}),
        pairs=given["over_weights_pairs"],
        difference=given["over_weights"],
        difference_low=given["over_weights_low"],
        difference_high=given["over_weights_high"],
        held_out_half_difference=math.nan,
    )
    return compared[(compared["arm"] == "supervised") | (compared["pairs"] > 0)]


def display_table(table: pd.DataFrame) -> pd.DataFrame:
    """Format the results for display.

    Returns:
        The same rows with string columns, without those that are empty: ``Labeled``, ``Arm``,
        ``Converged`` ("yes", "no", or empty if unknown), ``Accuracy, %`` such as
        "85.8 ± 0.9 (n = 4)", ``Difference, points (95 % CI)`` such as "+6.5 (+4.1 to +8.9; n = 4)",
        ``Paper (n = 5)``. Statistics that need more seeds are left out; a dash means that the arms
        have no seed in common.
    """
    columns: dict[str, Callable[[Row], str]] = {
        "Labeled": _format_labeled,
        "Arm": lambda row: ARMS[row.arm],
        "Converged": _format_converged,
        "Accuracy, %": lambda row: f"{_format_mean(row.mean, row.std)} (n = {row.seeds})",
        "Difference, points (95 % CI)": _format_difference,
        f"Paper (n = {PAPER_SEEDS})": lambda row: _format_mean(row.paper_mean, row.paper_std),
    }
    return _format_columns(_rows(table), columns)


def significance_table(table: pd.DataFrame) -> pd.DataFrame:
    """Format the results of the statistical tests for display.

    Returns:
        One row per compared row with at least two seeds, with string columns, without those that
        are empty: ``Labeled``, ``Arm`` (if several are compared), ``Pairs`` (of seeds), ``t test``
        and ``Permutation`` (p values of the paired tests), ``Discordant predictions, Selfie :
        supervised`` (those that only one arm gets right, pooled), ``McNemar`` (its p value),
        ``Ratio of standard deviations (95 % CI)`` (supervised's over the arm's) and ``Paper's
        ratio``. Undefined values are empty.
    """
    several = len(compared_arms(table)) > 1
    columns: dict[str, Callable[[Row], str]] = {
        "Labeled": _format_labeled,
        **({"Arm": lambda row: ARMS[row.arm]} if several else {}),
        "Pairs": lambda row: str(row.pairs),
        "t test": lambda row: _format_p(row.t_p),
        "Permutation": lambda row: _format_p(row.permutation_p),
        f"Discordant predictions, {name_compared(table)} : supervised": lambda row: (
            "" if pd.isna(row.gained) else f"{row.gained:,} : {row.lost:,}"
        ),
        "McNemar": lambda row: _format_p(row.mcnemar_p),
        "Ratio of standard deviations (95 % CI)": _format_ratio_interval,
        "Paper's ratio": lambda row: _format_ratio(row.paper_std_ratio),
    }
    rows = _rows(table[table["arm"] != "supervised"])
    return _format_columns((r for r in rows if r.pairs > 1 or pd.notna(r.std_ratio)), columns)


def to_markdown(table: pd.DataFrame) -> str:
    """Format the results and the statistical tests as Markdown.

    Returns:
        The names of the data set and the network, and a pipe table from `display_table`; with at
        least two seeds also one from `significance_table`. Empty lines are between them.
    """
    tables = [text for text in (display_table(table), significance_table(table)) if len(text)]
    return "\n".join([f"{_escape_markdown(table_title(table))}\n", *map(_to_pipe_table, tables)])


def terminal_table(table: pd.DataFrame, width: int = _TERMINAL_COLUMNS) -> str:
    """Format the results for the terminal.

    Where the table is wider than `width`, columns of the terminal, each value has its line.

    Returns:
        Lines of at most 100 columns, in ASCII except for the names of data sets and networks.
    """
    heading = f"{table_title(table)}: test accuracy"[:_TERMINAL_COLUMNS]
    return f"{heading}\n{_align_columns(display_table(table), width)}"


def table_title(table: pd.DataFrame) -> str:
    """Return the names of the data set and of the network of a table of results."""
    return f"{table['data'].iloc[0]}, {table['network'].iloc[0]}"


def _rows(table: pd.DataFrame) -> Iterable[Row]:
    integers = {"pairs": "Int64", "gained": "Int64", "lost": "Int64"}  # floats if read from CSV
    return table.astype(integers | {"converged": "boolean"}).itertuples(index=False)


def _format_columns(
    rows: Iterable[Row], columns: Mapping[str, Callable[[Row], str]]
) -> pd.DataFrame:
    """Format rows in these columns, and leave out columns that are empty."""
    lines = [[format_cell(row) for format_cell in columns.values()] for row in rows]
    text = pd.DataFrame(lines, columns=list(columns), dtype=str)
    return text.loc[:, (text != "").any()]


def _format_finding(row: Row) -> str:
    """Return the conclusion from one comparison, without its numbers."""
    subject = _SUBJECTS[row.arm]
    if row.pairs == 0:
        return f"{ARMS[row.arm]} and the baseline have no seed in common and cannot be compared"
    if pd.isna(row.difference_low):
        baseline = "a start from the weights alone" if row.arm == _ON_TOP else "the baseline"
        if row.difference > 0:
            lead = f"{subject} was ahead"
        elif row.difference < 0:
            lead = f"{baseline} was ahead of {subject}"
        else:
            lead = f"{subject} and {baseline} were equal"
        if row.pairs == 1:
            common = " in common" if row.seeds > 1 else ""
            return f"with only one seed{common}, which is weak evidence, {lead}"
        return f"with the same difference for every seed (so no interval), {lead}"
    if row.difference_low > 0:
        return f"{subject} helped"
    if row.difference_high < 0:
        return f"{subject} hurt"
    return f"{subject} made no significant difference"


def _format_convergence(row: Row, table: pd.DataFrame) -> str:
    """Return "at convergence, " if both arms have converged, "" if that is unknown."""
    pair = table.loc[
        (table["labeled_percent"] == row.labeled_percent)
        & (table["labels"] == row.labels)
        & table["arm"].isin([row.arm, "supervised"]),
        "converged",
    ]
    if row.pairs == 0 or pair.isna().any():
        return ""
    return "at convergence, " if pair.all() else "before convergence, "


def _format_held_out(row: Row) -> str:
    """Return the differences on held-out samples, from half of the steps to the end."""
    if pd.isna(row.held_out_half_difference):
        return ""
    half, end = map(_format_points, (row.held_out_half_difference, row.held_out_difference))
    return f"; on held-out training samples {half} at half of the steps and {end} at the end"


def _format_full_evidence(row: Row) -> str:
    """Return the evidence of a single comparison, with its interval."""
    condition = f"{row.labeled_percent:g} % of the labels ({row.labels:,})"
    if row.pairs == 0:
        return condition
    points = f"{_format_points(row.difference)} points with {condition}"
    if row.pairs == 1:
        return points + _format_held_out(row)
    interval = ""
    if pd.notna(row.difference_low):
        interval = f" (95 % confidence interval {_format_interval(row)})"
    return f"{points}, over {row.pairs} seeds{interval}{_format_held_out(row)}"


def _format_short_evidence(row: Row) -> str:
    """Return the evidence of one of several comparisons, whose intervals are in the table."""
    condition = f"{row.labeled_percent:g} % of the labels (n = {row.pairs})"
    return f"{_format_points(row.difference)} points with {condition}" if row.pairs else condition


def _format_converged(row: Row) -> str:
    """Format whether all trainings of a row have converged; "" if that is unknown."""
    return "" if pd.isna(row.converged) else "yes" if row.converged else "no"


def _format_labeled(row: Row) -> str:
    """Format the labeled fraction, such as "5 % (63)"."""
    return f"{row.labeled_percent:g} % ({row.labels:,})"


def _format_mean(mean: float, std: float) -> str:
    """Format "85.8 ± 0.9", "85.8" without a standard deviation, or "" without a mean."""
    if pd.isna(mean):
        return ""
    return f"{mean:.1f}" if pd.isna(std) else f"{mean:.1f} ± {std:.1f}"


def _format_difference(row: Row) -> str:
    """Format the difference, such as "+6.5 (+4.1 to +8.9; n = 4)"."""
    if row.arm == "supervised":
        return ""
    if row.pairs == 0:
        return f"{MISSING} (n = 0)"
    interval = f"{_format_interval(row)}; " if pd.notna(row.difference_low) else ""
    return f"{_format_points(row.difference)} ({interval}n = {row.pairs})"


def _format_interval(row: Row) -> str:
    """Format the interval of the difference, such as "+4.1 to +8.9"."""
    return f"{_format_points(row.difference_low)} to {_format_points(row.difference_high)}"


def _format_points(points: float) -> str:
    """Format a difference with its sign and a true minus; "0.0" has no sign."""
    text = f"{points:+.1f}"
    return "0.0" if text in {"+0.0", "-0.0"} else text.replace("-", "−")


def _format_p(p: float) -> str:
    """Format a p value, such as "0.013"."""
    if pd.isna(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"  # noqa: PLR2004


def _format_ratio_interval(row: Row) -> str:
    """Format the ratio of standard deviations, such as "2.4 (0.79 to 7.5)"."""
    if pd.isna(row.std_ratio):
        return ""
    low, high = _format_ratio(row.std_ratio_low), _format_ratio(row.std_ratio_high)
    return f"{_format_ratio(row.std_ratio)} ({low} to {high})"


def _format_ratio(ratio: float) -> str:
    """Format a ratio with two significant digits, such as "0.79", "2.4" and "13"."""
    if pd.isna(ratio):
        return ""
    return f"{ratio:,.{max(0, 1 - math.floor(math.log10(ratio)))}f}"


def _to_pipe_table(text: pd.DataFrame) -> str:
    lines = [list(text.columns), ["---"] * len(text.columns), *text.to_numpy().tolist()]
    return "".join(f"| {' | '.join(map(_escape_markdown, line))} |\n" for line in lines)


def _escape_markdown(text: object) -> str:
    """Return text that cannot end its table cell or its line."""
    return " ".join(str(text).replace("\\", "\\\\").replace("|", "\\|").split())


def _align_columns(text: pd.DataFrame, width: int) -> str:
    """Format a table in ASCII with columns of equal width, or as a list if it is too wide."""
    to_ascii = str.maketrans({"±": "+/-", MISSING: "-", "−": "-"})
    lines = [list(text.columns), *text.to_numpy().tolist()]
    ascii_lines = [[str(cell).translate(to_ascii) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*ascii_lines, strict=True)]
    rule = ["-" * width for width in widths]
    header, *rows = ascii_lines
    padded = [
        "  ".join(cell.ljust(size) for cell, size in zip(line, widths, strict=True)).rstrip()
        for line in (header, rule, *rows)
    ]
    if max(map(len, padded)) > width:
        named = (zip(header, row, strict=True) for row in rows)
        padded = ["".join(f"\n{name}: {cell}" for name, cell in row if cell) for row in named]
    return "".join(f"{line}\n" for line in padded)
