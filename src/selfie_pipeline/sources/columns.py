"""Columns of tables about images: found by their names, and read as text."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from selfie_pipeline.config import UserError
from selfie_pipeline.printable import list_first
from selfie_pipeline.sources.base import damaged_error
from selfie_pipeline.sources.listing import simplify_name

logger = logging.getLogger(__name__)

_NAMES: dict[str, tuple[set[str], ...]] = {
    "image": (
        {*("file", "filename", "filepath", "path"), *("image", "imagefile", "imagename")}
        | {"imagefilename", "imagepath", "img", "imgpath"},
        {"id", "imageid", "name"},
    ),
    "class": (
        {"class", "classname", "label", "labelname", "category"},
        {"classid", "labelid", "categoryid", "target"},
    ),
    "split": ({"split", "subset", "partition", "set"},),
}
"""Names of columns in lower case, without spaces and punctuation. Those of a second set count only
if no column has a name of the first."""

_MISSING = {"NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None", "<NA>", r"\N"}
"""Texts by which pandas, R, Excel and databases write missing values."""


def is_named_as(column: str, *kinds: str) -> bool:
    """Return True if a column has a name that those of one of these kinds have."""
    return any(simplify_name(column) in names for kind in kinds for names in _NAMES[kind])


def find_column(path: Path, columns: Collection[str], kind: str, named: str | None) -> str | None:
    """Find the column of a kind.

    Args:
        path: The table, for the message.
        columns: Names of its columns.
        kind: image, class or split.
        named: Value of the parameter `data.KIND_column`.

    Returns:
        The column's name; None if none is named as such columns are.

    Raises:
        UserError: Several columns are, or there is no column of the given name, or several.
    """
    if named is not None:
        if named not in columns:
            raise UserError(
                f"data.{kind}_column = {named} is not a column of {path}; allowed: "
                f"{list_first(columns)}"
            )
        _check_unique(path, columns, named)
        return named
    for known in _NAMES[kind]:
        found = [name for name in columns if simplify_name(name) in known]
        if found:
            _check_unique(path, columns, found[0])
        if len(found) > 1:
            raise UserError(
                f"{path} has several columns that may be the {kind} column: {list_first(found)}; "
                f"name it with data.{kind}_column"
            )
        if found:
            return found[0]
    return None


def _check_unique(path: Path, columns: Collection[str], name: str) -> None:
    if (count := list(columns).count(name)) > 1:
        raise UserError(f"{path} has {count} columns with the name {name}; rename all but one")


def read_class_labels(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the class names of each column of numbered classes, as Hugging Face stores them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if feature.get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):  # of another layout
        return {}


def to_texts(
    path: Path, column: str, values: pa.Array, class_names: Sequence[str] | None = None
) -> list[str]:
    """Convert a column to text.

    Null and NaN become empty; whole numbers lose their decimal point.

    Args:
        path: The table, for the message.
        column: Name of the column.
        values: The column.
        class_names: Names of numbered classes; -1 is none.

    Raises:
        UserError: The values are lists or other structures, or a class has a number without a name.
    """
    if pa.types.is_nested(values.type) or _is_binary(values.type):
        raise UserError(
            f"{path}: the column {column} has the type {values.type}; allowed: text or numbers"
        )
    texts = []
    for value in values.to_pylist():
        if class_names is None:
            texts.append(_to_text(value))
        elif value is None or value == -1:
            texts.append("")
        elif isinstance(value, int) and 0 <= value < len(class_names):
            texts.append(class_names[value])
        else:
            raise damaged_error(
                path, f"{column} has the class {value}, but {len(class_names)} classes have names"
            )
    return texts


def strip_decimal_zero(texts: Sequence[str]) -> Sequence[str]:
    """Return whole numbers without a point: pandas writes them as 3.0 if there are gaps."""
    if all(re.fullmatch(r"(-?\d+\.0)?", text) for text in texts):
        return [text.removesuffix(".0") for text in texts]
    return texts


def log_missing_values(path: Path, names: Sequence[str]) -> None:
    """Log the classes that may stand for a missing value; -1 does among numbers of at least 0."""
    classes = {*names} - {""}
    found = classes & _MISSING
    others = classes - found - {"-1"}
    if "-1" in classes and others and all(re.fullmatch(r"\d+(\.\d+)?", name) for name in others):
        found.add("-1")
    if found:
        logger.warning(
            "%s: %d of %d rows have the class %s, which often stands for a missing value; leave "
            "the cell empty to mean unlabeled",
            path,
            sum(name in found for name in names),
            len(names),
            " or ".join(sorted(found)),
        )


def _is_binary(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_any = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(is_kind(kind) for is_kind in is_any)


def _to_text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas stores whole numbers with gaps like this
    return str(value).strip()
