"""Bad label tables, and bad images in Parquet and tar files."""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import reject
from hypothesis import strategies as st
from tests.hostile.damage import NAMES, NUMBERS, SCALARS, damaged_bytes, damaged_tree
from tests.hostile.inputs import Input, Kind, Link, WrongResultError
from tests.hostile.kinds.folders import image_file, read_source
from tests.hostile.kinds.parameters import default_parameters

from selfie_pipeline.config import DataConfig, load_config
from selfie_pipeline.printable import is_printable
from selfie_pipeline.sources import open_source

_IMAGES = 8
_CLASSES = ["cat", "dog"]
_TABLE: dict[str, list[Any]] = {
    "file": [f"{number}.png" for number in range(_IMAGES)],
    "class": [_CLASSES[number % 2] for number in range(_IMAGES)],
    "split": ["train"] * 6 + ["test"] * 2,
}
_COLUMNS = st.one_of(
    st.none(), st.sampled_from([*_TABLE, "image", "label", "cls", "jpg"]), st.text(max_size=5)
)


def write_parquet(columns: Mapping[str, Any]) -> bytes:
    """Return columns as a Parquet file; reject the example if they don't fit into one."""
    file = io.BytesIO()
    try:
        pq.write_table(pa.table(dict(columns)), file, write_page_checksum=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError, UnicodeError, AttributeError):
        reject()
    return file.getvalue()


_VALUES = st.one_of(
    *(
        st.lists(values, min_size=_IMAGES, max_size=_IMAGES)
        for values in (
            NAMES,
            st.integers(-(2**63), 2**63 - 1),
            st.integers(-1, 2),
            st.floats(),
            st.booleans(),
            st.binary(max_size=9),
            st.none(),
            st.one_of(st.none(), st.sampled_from([*_CLASSES, "train", "test", "1.png"])),
            st.dates(),
            st.lists(st.integers(0, 3), max_size=3),
            st.fixed_dictionaries({"bytes": st.binary(max_size=9), "path": st.none()}),
        )
    )
)


@st.composite
def damaged_columns(draw: st.DrawFn, columns: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Replace, vary, remove, rename or add a column or two."""
    changed = dict(columns)
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        name = draw(st.sampled_from(sorted(columns)))
        if name not in changed:
            continue
        how = draw(st.sampled_from(["values", "one", "one", "removed", "renamed", "added"]))
        length = len(columns[name])
        if how == "values":
            changed[name] = (draw(_VALUES) * length)[:length]
        elif how == "one":
            row = draw(st.integers(0, length - 1))
            others = st.sampled_from(columns[name])
            value = draw(st.one_of(others, SCALARS, NUMBERS, st.integers(-3, 12)))
            changed[name] = [*columns[name][:row], value, *columns[name][row + 1 :]]
        elif how == "added":
            changed[draw(NAMES)] = (draw(_VALUES) * length)[:length]
        else:
            values = changed.pop(name)
            if how == "renamed":
                changed[draw(NAMES)] = values
    return changed


def write_csv(columns: Mapping[str, Any], delimiter: str = ",") -> str:
    """Return columns as CSV; the value of a column that is not a list is in the first row."""
    lists = [value if isinstance(value, list) else [value] for value in columns.values()]
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    writer.writerow([str(name) for name in columns])
    for row in range(max((len(values) for values in lists), default=0)):
        cells = [values[row] if row < len(values) else None for values in lists]
        writer.writerow([None if cell is None else str(cell) for cell in cells])
    return file.getvalue()


@st.composite
def _label_tables(draw: st.DrawFn) -> Input:
    files: dict[str, bytes | Link] = {
        f"raw/{number}.png": image_file(number) for number in range(_IMAGES)
    }
    if draw(st.booleans()):
        content, suffix = write_parquet(draw(damaged_columns(_TABLE))), ".parquet"
    else:
        tree = draw(st.one_of(damaged_columns(_TABLE), damaged_tree(_TABLE)))
        delimiter = draw(st.sampled_from([",", ";", "\t", "|", " "]))
        text = write_csv(tree if isinstance(tree, dict) else {"file": tree}, delimiter)
        encoding = draw(st.sampled_from(["utf-8"] * 4 + ["utf-8-sig", "utf-16", "latin-1"]))
        content = text.encode(encoding, "replace")
        suffix = draw(st.sampled_from([".csv", ".tsv", ".txt", "", ".CSV"]))
    how = "values changed"
    if draw(st.integers(0, 2)) == 0 and content:
        content, how = draw(damaged_bytes(content))
    suffix = suffix if draw(st.integers(0, 9)) else ".parquet"
    name = f"labels{suffix}"
    files[name] = content
    value = {"labels": draw(st.sampled_from([[name]] * 6 + [["."], ["absent.csv"], [name, name]]))}
    return Input(f"{name}: {how}", files, value | draw(_columns(3)))


@st.composite
def _columns(draw: st.DrawFn, rarity: int) -> dict[str, str | None]:
    if draw(st.integers(0, rarity)):
        return {}
    return {f"{kind}_column": draw(_COLUMNS) for kind in ("image", "class", "split")}


@cache
def _shard(first: int) -> dict[str, list[Any]]:
    numbers = range(first, first + _IMAGES)
    return {
        "image": [{"bytes": image_file(n), "path": f"{n}.png"} for n in numbers],
        "label": [_CLASSES[n % 2] for n in numbers],
    }


_FEATURES = (
    b'{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}',
    b'{"info": {"features": {"label": {"names": [], "_type": "ClassLabel"}}}}',
    b'{"info": {"features": {"label": {"names": ["a\\u001b"], "_type": "ClassLabel"}}}}',
    b'{"info": {"features": {"label": {"names": 3, "_type": "ClassLabel"}}}}',
    b'{"info": {"features": [1]}}',
    b"[" * 3000,
    b"\xff",
)


@st.composite
def _parquet_sets(draw: st.DrawFn) -> Input:
    columns = draw(damaged_columns(_shard(0))) if draw(st.booleans()) else dict(_shard(0))
    if draw(st.integers(0, 2)) == 0:
        columns["label"] = draw(st.lists(st.integers(-2, 3), min_size=_IMAGES, max_size=_IMAGES))
    content, how = write_parquet(columns), "values changed"
    if draw(st.booleans()):
        try:
            table = pq.read_table(io.BytesIO(content))
        except (pa.ArrowException, OSError):
            reject()
        file = io.BytesIO()
        features = draw(st.sampled_from(_FEATURES))
        pq.write_table(table.replace_schema_metadata({b"huggingface": features}), file)
        content = file.getvalue()
    if draw(st.booleans()):
        content, how = draw(damaged_bytes(content))
    files = {
        "raw/train-00000-of-00001.parquet": content,
        "raw/test-00000-of-00001.parquet": write_parquet(_shard(20)),
    }
    return Input(f"train: {how}", files, draw(_columns(4)))


_MEMBER_NAMES = st.one_of(
    NAMES,
    st.sampled_from(
        ["../../beside.png", "/tmp/beside.png", "1.png", ".cls", "a/b/3.jpg", "x.seg.png"]
    ),
)
_TYPES = [tarfile.REGTYPE] * 6 + [
    *(tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE),
    *(tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE, b"Z"),
]


def _tar(members: list[tuple[str, bytes, bytes, int | None]], format_: int) -> bytes:
    """Return a tar file of members: name, content, type, and the header's size if it is wrong."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format_):
        for name, content, type_, size in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = type_, len(content), "/etc/passwd"
            if size is not None:
                info.size = size
            file.write(info.tobuf(format_, "utf-8", "replace"))
            file.write(content + bytes(-len(content) % tarfile.BLOCKSIZE))
    return file.getvalue()


@st.composite
def _tar_sets(draw: st.DrawFn) -> Input:
    members: list[tuple[str, bytes, bytes, int | None]] = []
    for number in range(_IMAGES):
        members.append((f"{number:03d}.png", image_file(number), tarfile.REGTYPE, None))
        members.append((f"{number:03d}.cls", _CLASSES[number % 2].encode(), tarfile.REGTYPE, None))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(members) - 1))
        name, content, type_, _ = members[place]
        name = draw(st.one_of(st.just(name), _MEMBER_NAMES))
        content = draw(st.one_of(st.just(content), st.binary(max_size=30), NAMES.map(_encode)))
        sizes = st.sampled_from([None] * 4 + [0, 1, 10**6, 8**11 - 1, 2**40])
        members[place] = (name, content, draw(st.sampled_from([type_, *_TYPES])), draw(sizes))
    format_ = draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    try:
        content = _tar(members, format_)
    except (ValueError, UnicodeError):
        reject()
    how = "members changed"
    if draw(st.booleans()):
        content, how = draw(damaged_bytes(content))
    return Input(f"train.tar: {how}", {"raw/train.tar": content}, draw(_columns(9)))


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "replace")


@cache
def _data() -> DataConfig:
    return load_config(default_parameters()).data.model_copy(
        update={"source": "image_folder", "folder": "raw"}
    )


def _read(intact: range, item: Input, folder: Path) -> None:
    """Read an image set as the stages do."""
    source = open_source(_data().model_copy(update=item.value), folder / "input")
    samples, readable = read_source(source)
    if not samples["label"].between(-1, len(source.classes) - 1).all():
        raise WrongResultError("a label is not that of a class")
    if readable > len(intact):
        raise WrongResultError(f"{readable} images of {len(intact)} were readable")
    if not all(map(is_printable, source.classes)):
        raise WrongResultError("a class name has control characters")


KINDS = [
    Kind("sets/label tables", _label_tables(), partial(_read, range(_IMAGES)), share=60),
    Kind("sets/parquet", _parquet_sets(), partial(_read, range(2 * _IMAGES)), share=40),
    Kind("sets/tar", _tar_sets(), partial(_read, range(_IMAGES)), share=40),
]
