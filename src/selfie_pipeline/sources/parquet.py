"""Reader of images in Parquet files, as the Hugging Face Hub stores them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow.parquet import ParquetFile

from selfie_pipeline.config import DataConfig, UserError
from selfie_pipeline.printable import list_first
from selfie_pipeline.sources.base import damaged_error
from selfie_pipeline.sources.columns import find_column, is_named_as, read_class_labels, to_texts

logger = logging.getLogger(__name__)

_BATCH_ROWS = 8
_BUFFER_BYTES = 2**20  # per column; without it, Arrow reads a row group's column at once


def has_images(path: Path) -> bool:
    """Return True if a Parquet file has a column of images: structures with a field `bytes`.

    Raises:
        UserError: The file is damaged.
    """
    return bool(_image_columns(_read_schema(path)))


class ParquetReader:
    """A reader of Parquet shards with a column of images and perhaps one of classes."""

    def __init__(self, paths: Sequence[Path], config: DataConfig) -> None:
        """Find the columns, which the parameters may name.

        If there is no column of classes, those that may have them are logged.

        Raises:
            UserError: A shard is damaged, or the column of images or classes is ambiguous.
        """
        self._columns: dict[Path, tuple[str, str | None]] = {}
        self._names: dict[Path, list[str] | None] = {}
        names: dict[str, None] = {}
        for path in paths:
            schema = _read_schema(path)
            class_labels = read_class_labels(schema)
            image = _find_image_column(path, schema, config.image_column)
            class_ = _find_class_column(path, schema, image, config.class_column)
            self._columns[path] = image, class_
            self._names[path] = class_labels.get(class_) if class_ else None
            names |= dict.fromkeys(self._names[path] or [])
        if not config.labels and not any(c for _, c in self._columns.values()):
            if config.class_column:
                raise UserError(
                    f"data.class_column = {config.class_column} is not a column of {paths[0]}; "
                    f"allowed: {list_first(schema.names)}"
                )
            _log_other_columns(path, schema)
        self.class_names = tuple(names)

    def list_images(self, path: Path) -> Iterator[tuple[str, str]]:
        """Yield the row in brackets and the class of each image; see `ShardReader`."""
        _, class_ = self._columns[path]
        row = 0
        try:
            with ParquetFile(path) as file:
                if class_ is None:
                    yield from ((f"[{row}]", "") for row in range(file.metadata.num_rows))
                    return
                names = self._names[path]
                has_none = names is None and _marks_none(file, class_)
                for batch in file.iter_batches(columns=[class_]):
                    for text in to_texts(path, class_, batch.column(0), names):
                        yield f"[{row}]", "" if has_none and text == "-1" else text
                        row += 1
        except (OSError, pa.ArrowException) as error:
            raise damaged_error(path, error) from error

    def read_images(self, path: Path, rows: NDArray[np.int64]) -> Iterator[bytes | None]:
        """Yield the bytes of some rows; see `ShardReader`."""
        image, _ = self._columns[path]
        try:
            with ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
                first = 0
                for batch in file.iter_batches(_BATCH_ROWS, columns=[f"{image}.bytes"]):
                    begin, end = np.searchsorted(rows, [first, first + len(batch)])
                    for row in rows[begin:end]:
                        value = batch.column(0)[int(row) - first].as_py()
                        yield value and value["bytes"]
                    first += len(batch)
                    if end == len(rows):
                        return
        except (OSError, pa.ArrowException) as error:
            raise damaged_error(path, error) from error


def _log_other_columns(path: Path, schema: pa.Schema) -> None:
    """Log the columns of a shard that may have the classes, if there are any."""
    others = [
        field.name
        for field in schema
        if not pa.types.is_nested(field.type) and not is_named_as(field.name, "image", "split")
    ]
    if others:
        logger.warning(
            "%s: no column of classes was found among %s; if it is one of them, name it with "
            "data.class_column",
            path,
            list_first(others),
        )


def _marks_none(file: ParquetFile, column: str) -> bool:
    """Return True if -1 in a column of numbers means no class: if all others are at least 0."""
    kind = file.schema_arrow.field(column).type
    if not (pa.types.is_signed_integer(kind) or kind in {pa.float32(), pa.float64()}):
        return False
    values = file.read([column]).column(0)
    others = values.filter(pc.not_equal(values, -1))
    return not pc.any(pc.less(others, 0)).as_py()


def _read_schema(path: Path) -> pa.Schema:
    try:
        with ParquetFile(path) as file:
            return file.schema_arrow
    except (OSError, pa.ArrowException) as error:
        raise damaged_error(path, error) from error


def _image_columns(schema: pa.Schema) -> list[str]:
    return [
        field.name
        for field in schema
        if pa.types.is_struct(field.type)
        and (index := field.type.get_field_index("bytes")) >= 0
        and field.type[index].type in {pa.binary(), pa.large_binary()}
    ]


def _find_image_column(path: Path, schema: pa.Schema, named: str | None) -> str:
    found = _image_columns(schema)
    if named in found:
        return named
    if len(found) > 1:
        raise UserError(
            f"{path} has several columns of images: {list_first(found)}; name one with "
            "data.image_column"
        )
    return found[0]


def _find_class_column(path: Path, schema: pa.Schema, image: str, named: str | None) -> str | None:
    """Find the column of classes; None if there is none, or not the named one."""
    if named is not None:
        return named if named in schema.names else None
    numbered = [name for name in read_class_labels(schema) if name in schema.names]
    if len(numbered) > 1:
        raise UserError(
            f"{path} has several columns of classes: {list_first(numbered)}; name one with "
            "data.class_column"
        )
    others = [name for name in schema.names if name != image]
    return numbered[0] if numbered else find_column(path, others, "class", None)
