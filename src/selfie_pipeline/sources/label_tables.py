"""Label tables: the classes, and perhaps the splits, of images in CSV, TSV or Parquet files."""

from __future__ import annotations

import csv
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TextIO

import pyarrow as pa
from pyarrow.parquet import ParquetFile

from selfie_pipeline.config import DataConfig, UserError
from selfie_pipeline.printable import list_first
from selfie_pipeline.sources.base import damaged_error
from selfie_pipeline.sources.columns import (
    find_column,
    log_missing_values,
    read_class_labels,
    strip_decimal_zero,
    to_texts,
)
from selfie_pipeline.sources.decoding import has_image_extension
from selfie_pipeline.sources.listing import (
    SPLIT_NAMES,
    UNLABELED_NAMES,
    ListedImage,
    normalise_unicode,
)

logger = logging.getLogger(__name__)

_CONVERSIONS = {
    ".json": "read_json({!r})",
    **dict.fromkeys((".jsonl", ".ndjson"), "read_json({!r}, lines=True)"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "read_excel({!r})"),
}
"""Functions of pandas that read tables of other formats, by suffix."""

_Columns = tuple[str, str, str | None]
"""Names of the columns of image, class and split."""


class LabelRow(NamedTuple):
    """A row of a label table."""

    file: str
    class_name: str
    """Empty for none."""
    split: str
    """One of `SPLIT_NAMES`; empty for none."""


class LabelTable(NamedTuple):
    """A label table."""

    path: Path
    rows: list[LabelRow]


def read_label_tables(config: DataConfig, root: Path) -> list[LabelTable]:
    """Read the label tables that the parameters name.

    A table is a Parquet file, or a text file in UTF-8 with a header, whose columns are separated by
    commas, semicolons or tabs. Parameters may name the columns; tables after the first may lack
    them, and have other names. Paths are relative to `root`; `~` at their beginning is the home
    folder.

    Raises:
        UserError: A file is absent or damaged, a column can't be found, or splits have unknown
            names.
    """
    return [
        _read_table(root / os.path.expanduser(path), config, is_first=number == 0)
        for number, path in enumerate(config.labels or [])
    ]


def _read_table(path: Path, config: DataConfig, *, is_first: bool) -> LabelTable:
    if conversion := _CONVERSIONS.get(path.suffix.lower()):
        raise UserError(
            f"data.labels: {path} has a format that is not read; allowed: CSV, TSV or Parquet; "
            f"convert it with pandas, as in pd.{conversion.format(path.name)}"
            f".to_csv({f'{path.stem}.csv'!r}, index=False)"
        )
    read = _read_parquet if path.suffix.lower() == ".parquet" else _read_text
    find = partial(_find_columns, path, config, is_first)
    rows: list[LabelRow] = []
    unknown: dict[str, int] = defaultdict(int)
    try:
        for file, class_name, split in read(path, find):
            rows.append(
                LabelRow(file, normalise_unicode(class_name.strip()), split.strip().casefold())
            )
            if rows[-1].split not in {"", *SPLIT_NAMES}:
                unknown[split] += 1
    except FileNotFoundError:
        raise UserError(
            f"data.labels: {path} does not exist; allowed: a CSV, TSV or Parquet file, absolute or "
            "relative to the project"
        ) from None
    except UnicodeDecodeError:
        raise UserError(
            f"data.labels: {path} is neither text in UTF-8 nor .parquet; save it as CSV in UTF-8"
        ) from None
    except (OSError, csv.Error, pa.ArrowException) as error:
        raise damaged_error(path, error) from error
    if unknown:
        raise UserError(
            f"{path}: unknown splits in {sum(unknown.values())} of {len(rows)} rows: "
            f"{list_first(unknown)}; allowed: {', '.join(SPLIT_NAMES)}, or empty; "
            "data.split_column names another column"
        )
    if not rows:
        raise damaged_error(path, "it has no rows below its header")
    log_missing_values(path, [row.class_name for row in rows])
    return LabelTable(path, rows)


def _find_columns(path: Path, config: DataConfig, is_first: bool, names: Sequence[str]) -> _Columns:
    """Find the columns of image, class and split; a single column that is left over is taken."""
    split, image, class_ = (
        find_column(path, names, kind, named if is_first or named in names else None)
        for kind, named in (
            ("split", config.split_column),
            ("image", config.image_column),
            ("class", config.class_column),
        )
    )
    rest = [name for name in names if name not in {split, image, class_}]
    if len(rest) == 1 and (image is None) != (class_ is None):
        image, class_ = image or rest[0], class_ or rest[0]
    for kind, found in (("image", image), ("class", class_)):
        if found is None:
            if files := [name for name in names if has_image_extension(name)]:
                raise UserError(
                    f"{path} has no header: its first line names the file {files[0]}; add a line "
                    "above it, such as file,class"
                )
            raise UserError(
                f"{path}: which column is that of the {kind}? It has {list_first(names)}; name it "
                f"with data.{kind}_column"
            )
    assert image is not None and class_ is not None  # noqa: S101, PT018
    return image, class_, split


def _read_text(
    path: Path, find: Callable[[Sequence[str]], _Columns]
) -> Iterator[tuple[str, str, str]]:
    """Read the columns of a text file; empty lines are skipped."""
    with path.open(encoding="utf-8-sig", newline="") as file:  # Excel writes a byte-order mark
        line = file.readline()
        file.seek(0)
        delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=line.count)
        lines = _read_lines(file, delimiter)
        header = [name.strip() for name in next(lines, (1, []))[1]]
        if not header:
            raise csv.Error("its first line is empty, where the names of the columns belong")
        columns = [header.index(name) if name is not None else -1 for name in find(header)]
        rows = []
        for number, row in lines:
            if any(row[len(header) :]):
                raise csv.Error(f"line {number} has {len(row)} columns, the header {len(header)}")
            if any(row):
                rows.append([row[c].strip() if 0 <= c < len(row) else "" for c in columns])
        images, classes, splits = zip(*rows, strict=True) if rows else ((), (), ())
        return zip(strip_decimal_zero(images), strip_decimal_zero(classes), splits, strict=True)


def _read_lines(file: TextIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Read the rows of a text file, each with the number of its first line."""
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    number = 1
    try:
        for row in reader:
            yield number, row
            number = reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(f"the row that begins in line {number}: {error}") from None


def _read_parquet(
    path: Path, find: Callable[[Sequence[str]], _Columns]
) -> Iterator[tuple[str, str, str]]:
    with ParquetFile(path) as file:
        class_labels = read_class_labels(file.schema_arrow)
        columns = find(file.schema_arrow.names)
        for batch in file.iter_batches(columns=[name for name in columns if name]):
            texts = [
                to_texts(path, name, batch.column(name), class_labels.get(name))
                if name
                else [""] * len(batch)
                for name in columns
            ]
            yield from zip(*texts, strict=True)


def apply_label_tables(
    images: Sequence[ListedImage], tables: Sequence[LabelTable], folder: Path
) -> list[ListedImage]:
    """Give images the classes and splits of label tables; a later table overrides an earlier one.

    A row names an image by its place or the end of its path, perhaps without the extension. A row
    without a class or a split leaves that as it is; but an unlabeled image that gets a class
    becomes a training image, unless the row has a split.

    The data set's own classes are dropped if tables give others to images that have some, and no
    row has one of them: then they are of another kind, such as the names of folders by year.

    Args:
        images: All images of the data set.
        tables: The label tables.
        folder: Folder of the data set, absolute.

    Returns:
        The images in the same order.

    Raises:
        UserError: A table has rows for one image with different classes or splits, rows that name
            several images, or no row that names an image. The message counts them and shows the
            first.
    """
    matched = [_match_rows(images, table, folder) for table in tables]
    own = {image.class_name for image in images} - {""}
    given = [(images[i].class_name, r.class_name) for rows in matched for i, r in rows.items()]
    is_replaced = any(before and new for before, new in given)
    labeled = list(images)
    if is_replaced and own.isdisjoint(new for _, new in given):
        named = {index for rows in matched for index, row in rows.items() if row.class_name}
        lost = sum(bool(i.class_name) and index not in named for index, i in enumerate(images))
        logger.log(
            logging.WARNING if lost else logging.INFO,
            "The data set's own classes %s are ignored, because data.labels gives these images "
            "others%s",
            list_first(sorted(own)),
            f"; {lost} to which it gives none are unlabeled now" if lost else "",
        )
        labeled = [image._replace(class_name="") for image in images]
    for number, (table, rows) in enumerate(zip(tables, matched, strict=True), start=1):
        changed = []
        for index, row in rows.items():
            before = labeled[index]
            labeled[index] = _apply_row(before, row, number)
            if before.class_name not in {"", labeled[index].class_name}:
                changed.append(f"{before.place} ({before.class_name} → {row.class_name})")
        logger.info(
            "%s: classes of %d images", table.path, sum(bool(r.class_name) for r in rows.values())
        )
        if changed:
            logger.warning(
                "%s: %d images get another class than before: %s",
                table.path,
                len(changed),
                list_first(changed),
            )
    return labeled


def _apply_row(image: ListedImage, row: LabelRow, number: int) -> ListedImage:
    split = row.split or image.split
    if row.class_name and not row.split and image.split in UNLABELED_NAMES:
        split = "train"
    return image._replace(
        split=split,
        class_name=row.class_name or image.class_name,
        source=image.source if image.class_name or not row.class_name else number,
    )


def _match_rows(
    images: Sequence[ListedImage], table: LabelTable, folder: Path
) -> dict[int, LabelRow]:
    """Find the image of each row; return the rows by index of the image."""
    found: dict[int, LabelRow] = {}
    missing: list[str] = []
    ambiguous: list[str] = []
    contradicted: list[str] = []
    for row, fitting in zip(table.rows, _find_images(images, table, folder), strict=True):
        if len(fitting) != 1:
            (ambiguous if fitting else missing).append(row.file)
            continue
        before = found.get(fitting[0], row)
        if any(old and new and old != new for old, new in zip(before[1:], row[1:], strict=True)):
            values = [" ".join(filter(None, each[1:])) for each in (before, row)]
            contradicted.append(f"{row.file} ({', '.join(values)})")
        found[fitting[0]] = LabelRow(
            row.file, row.class_name or before.class_name, row.split or before.split
        )
    total = len(table.rows)
    if contradicted:
        raise UserError(
            f"{table.path}: {len(contradicted)} of {total} rows have another class or split than "
            f"an earlier row of the same file: {list_first(contradicted)}; leave one of them"
        )
    if ambiguous:
        raise UserError(
            f"{table.path}: {len(ambiguous)} of {total} rows fit several files in {folder}: "
            f"{list_first(ambiguous)}; give more of their paths"
        )
    if not found:
        raise UserError(
            f"{table.path}: none of {total} rows names a file in {folder}: {list_first(missing)}; "
            "allowed: paths in data.folder or the ends of them; data.image_column names the column"
        )
    if missing:
        logger.warning(
            "%s: %d of %d rows name no file in %s: %s",
            table.path,
            len(missing),
            total,
            folder,
            list_first(missing),
        )
    return found


def _find_images(
    images: Sequence[ListedImage], table: LabelTable, folder: Path
) -> Iterator[Sequence[int]]:
    """Find the images of each row, by their indices: one by its place, or all that its end fits.

    Letters with accents may be composed or decomposed, as in the names that macOS gives.
    """
    by_place = {image.place: index for index, image in enumerate(images)}
    by_name = _group_by_name(
        images, {normalise_unicode(_last(_clean(row.file))) for row in table.rows}
    )
    root = folder.as_posix().strip("/")
    for row in table.rows:
        file = _clean(row.file)
        index = by_place.get(row.file, by_place.get(file))
        if index is not None:
            yield [index]
            continue
        file = normalise_unicode(file)
        candidates = by_name.get(_last(file), [])
        places = [index for index in candidates if normalise_unicode(images[index].place) == file]
        if places:
            yield places
            continue
        end = "/" + file.lstrip("/")
        paths = {i: normalise_unicode(f"/{root}/{images[i].place}") for i in candidates}
        yield [
            i
            for i, path in paths.items()
            if path.endswith(end) or path.rpartition(".")[0].endswith(end)
        ]


def _group_by_name(images: Sequence[ListedImage], wanted: set[str]) -> Mapping[str, list[int]]:
    """Group the indices of images by name with and without extension, as far as wanted."""
    groups = defaultdict(list)
    for index, image in enumerate(images):
        name = normalise_unicode(_last(image.place))
        names = {name, name.rpartition(".")[0]} if has_image_extension(name) else {name}
        for key in names & wanted:
            groups[key].append(index)
    return groups


def _clean(file: str) -> str:
    """Return a path with slashes, and without spaces or ./ around it."""
    return file.strip().replace("\\", "/").removeprefix("./")


def _last(path: str) -> str:
    return path.rpartition("/")[2]
