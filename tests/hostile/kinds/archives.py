"""Bad archives of arrays: the pickles of CIFAR-10 and the .npz files of ImageNet 32×32."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from tests.hostile.damage import JUNK, NAMES, damaged_bytes
from tests.hostile.inputs import Input, Kind, WrongResultError
from tests.hostile.trials import CANARY

from selfie_pipeline.sources.base import Chunk, Source
from selfie_pipeline.sources.cifar10 import read_cifar10
from selfie_pipeline.sources.imagenet32 import open_imagenet32
from selfie_pipeline.sources.samples import check_samples, count_samples

_CLASSES = 3
_BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
_PARTS = ["train_data_batch_1", "train_data_batch_2", "val_data"]


def read_source(source: Source) -> None:
    """Read all of a source as the stages do, and check that its parts are consistent.

    Raises:
        WrongResultError: They are not.
    """
    samples = source.samples()
    check_samples(samples, source.classes)
    count_samples(samples)
    source.fingerprint(samples)
    seen = 0
    for chunk in _chunks(source, samples):
        if chunk.images.dtype != np.uint8 or chunk.images.shape[1:] != (32, 32, 3):
            raise WrongResultError(f"images are {chunk.images.dtype} of {chunk.images.shape}")
        seen += len(chunk.images)
    if seen != len(samples):
        raise WrongResultError(f"{seen} images of {len(samples)} samples")
    if not samples["label"].between(-1, len(source.classes) - 1).all():
        raise WrongResultError("a label is not that of a class")


def _chunks(source: Source, samples: pd.DataFrame) -> Iterator[Chunk]:
    return source.images(samples, 32)


class _Call:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


_CODE = [
    _Call(sys.audit, CANARY),
    _Call(eval, f"__import__('sys').audit({CANARY!r})"),
    _Call(exec, f"import sys; sys.audit({CANARY!r})"),
    _Call(getattr, _Call(__import__, "sys"), "audit"),
    _Call(np.load, "canary.npy"),
    _Call(print, "canary"),
    _Call(Path, "canary"),
    _Call(io.open, "canary", "w"),
    _Call(pickle.loads, pickle.dumps(_Call(sys.audit, CANARY))),
    _Call(np._core.multiarray._reconstruct, _Call, (0,), b"b"),
]


@cache
def _batch(name: str) -> dict[bytes, Any]:
    images = 4 if name.startswith("data") else 3
    random = np.random.default_rng(len(name))
    return {
        b"labels": [number % _CLASSES for number in range(images)],
        b"data": random.integers(0, 256, (images, 3072), dtype=np.uint8),
    }


@cache
def _cifar() -> dict[str, bytes]:
    files = {name: pickle.dumps(_batch(name), protocol=2) for name in _BATCHES}
    return files | {"batches.meta": pickle.dumps({b"label_names": [b"cat", b"dog", b"owl"]})}


_ARRAYS = st.one_of(
    st.sampled_from(
        [
            np.zeros((4, 3071), np.uint8),
            np.zeros((4, 3072), np.int8),
            np.zeros((4, 3072), np.float64),
            np.zeros((0, 3072), np.uint8),
            np.zeros((4, 3, 32, 32), np.uint8),
            np.zeros((4, 3072), np.uint8, order="F"),
            np.zeros((4, 3072), "V1"),
            np.zeros(4, [("a", "u1", 3072)]),
            np.array([1, "x", None], dtype=object),
            np.ma.masked_all((4, 3072), np.uint8),
            np.uint8(3),
            np.array("x"),
            np.array(["2020"], "M8[Y]"),
        ]
    ),
    st.lists(JUNK, max_size=5),
)


@st.composite
def _cifar_values(draw: st.DrawFn) -> Input:
    """Generate pickles with wrong data and arrays."""
    name = draw(st.sampled_from([*_BATCHES, "batches.meta"]))
    junk = draw(st.one_of(JUNK, _ARRAYS))
    if name == "batches.meta":
        names = [b"cat", b"dog", b"owl"]
        choices = [junk, [*names[:2], junk], names * 20_000, names[:1], [b"cat", b"cat", b"owl"]]
        content: Any = {b"label_names": draw(st.sampled_from(choices))}
    else:
        batch = dict(_batch(name))
        key = draw(st.sampled_from([b"labels", b"data"]))
        how = draw(st.sampled_from(["replaced", "one", "removed", "instead"]))
        if how == "one":
            batch[b"labels"] = [*batch[b"labels"][1:], junk]
        elif how == "removed":
            del batch[key]
        else:
            batch[key] = junk
        content = junk if how == "instead" else batch
    if draw(st.booleans()) and isinstance(content, dict):
        content = {**content, draw(NAMES): junk}
    protocol = draw(st.integers(0, 4))
    return Input(name, {**_cifar(), name: pickle.dumps(content, protocol=protocol)})


@st.composite
def _cifar_code(draw: st.DrawFn) -> Input:
    """Generate pickles that would call functions."""
    name = draw(st.sampled_from([*_BATCHES, "batches.meta"]))
    code = draw(st.sampled_from(_CODE))
    content = draw(
        st.sampled_from([code, {b"data": code}, {code: 1}, {b"labels": [code]}, [code, {}]])
    )
    return Input(
        f"{name} calls {code.__reduce__()[0].__name__}",
        {**_cifar(), name: pickle.dumps(content, protocol=draw(st.integers(0, 4)))},
        expected="refused",
    )


@st.composite
def _opcodes(draw: st.DrawFn) -> Input:
    """Generate pickle programs that announce huge sizes or are deeply nested."""
    big = draw(st.sampled_from([2**20, 2**31 - 1, 2**31, 2**40, 2**62, 2**64 - 1]))
    program = draw(
        st.sampled_from(
            [
                b"\x80\x04\x8e" + struct.pack("<Q", big),  # BINBYTES8
                b"\x80\x04\x8d" + struct.pack("<Q", big),  # BINUNICODE8
                b"\x80\x04\x95" + struct.pack("<Q", big) + b"N.",  # FRAME
                b"\x80\x05\x96" + struct.pack("<Q", big),  # BYTEARRAY8
                b"\x80\x02\x8b" + struct.pack("<I", big & 0x7FFFFFFF),  # LONG4
                b"\x80\x02Nr" + struct.pack("<I", big & 0xFFFFFFFF) + b".",  # LONG_BINPUT
                b"\x80\x02j" + struct.pack("<I", big & 0xFFFFFFFF) + b".",  # LONG_BINGET
                b"]" + b"]a" * 100_000 + b".",
                b"(" * 100_000 + b".",
                b"]" + b"2" * 300_000 + b"l.",
                b"]q\x00" + b"(h\x00h\x00lq\x00" * 25 + b".",  # each list twice in the next one
                b"]\x94" + b"h\x00a." * 2,
                b"cos\nsystem\n(S'true'\ntR.",
                b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
                b"\x80\x02\x82\x01.",  # EXT1
                b"\x80\x02Pid\n.",  # PERSID
                b"\x80\x02}(U\x04datacnumpy\nndarray\n)\x81u.",
                b"\x80\x02}(U\x04datacnumpy\nndarray\n(J\xff\xff\xff\x7ftR.u.",
                b"}(S'data'\ncnumpy.core.multiarray\n_reconstruct\n"
                b"(cnumpy\nndarray\n(I100000000000\ntS'b'\ntRu.",
                b"}(S'data'\ncnumpy\nndarray\n(I4000000000\nS'u1'\ntRu.",
                b"I" + b"9" * 100_000 + b"\n.",
                b"}(S'data'\ncnumpy\ndtype\n(S'" + b"u1," * 20_000 + b"u1'\ntRu.",
            ]
        )
    )
    name = draw(st.sampled_from(["data_batch_1", "batches.meta"]))
    return Input(f"{name}: {program[:30]!r}", {**_cifar(), name: program}, expected="refused")


@st.composite
def _cifar_damaged(draw: st.DrawFn) -> Input:
    name = draw(st.sampled_from([*_BATCHES, "batches.meta"]))
    content, how = _cifar()[name], "intact"
    for _ in range(draw(st.sampled_from([1, 1, 2, 6]))):
        content, how = draw(damaged_bytes(content)) if content else (b"", "empty")
    return Input(f"{name}, {how}", {**_cifar(), name: content})


def _read_cifar(item: Input, folder: Path) -> None:
    read_source(read_cifar10(folder / "input"))


def _npy(array: Any, header: bytes | None = None) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    if header is None:
        return file.getvalue()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(100)


def _zip(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


@cache
def _part(name: str) -> dict[str, bytes]:
    images = {"train_data_batch_1": 5, "train_data_batch_2": 3, "val_data": 4}[name]
    random = np.random.default_rng(images)
    return {
        "data.npy": _npy(random.integers(0, 256, (images, 3072), dtype=np.uint8)),
        "labels.npy": _npy(np.arange(images) % _CLASSES + 1),
    }


@cache
def _imagenet() -> dict[str, bytes]:
    return {f"{name}.npz": _zip(_part(name)) for name in _PARTS}


_HEADERS = st.one_of(
    st.builds(
        lambda descr, shape: f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n",
        st.sampled_from(["'|u1'", "'<i8'", "'|O'", "'|V0'", "'<U9'", "[('a', '|u1')]", "1", "'x'"]),
        st.sampled_from(
            [
                *(
                    "(4, 3072)",
                    "(4,)",
                    "()",
                    "(-1, 3072)",
                    "(10**9,)",
                    "(2000000000,)",
                    "(0, 3072)",
                ),
                *("(4.0,)", "None", "(4, 3072, 0)", f"({'1, ' * 70})", "(99999999999999999999,)"),
            ]
        ),
    ),
    st.sampled_from(["__import__('os')", "{", "[" * 500, "{'descr': '|u1'}", "9" * 5000, "\0"]),
)


@st.composite
def _npz_values(draw: st.DrawFn) -> Input:
    """Generate archives with wrong arrays."""
    name = draw(st.sampled_from(_PARTS))
    members = dict(_part(name))
    member = draw(st.sampled_from(sorted(members)))
    how = draw(st.sampled_from(["array", "header", "labels", "removed", "bytes", "twice"]))
    if how == "array":
        members[member] = _npy(draw(_ARRAYS.filter(lambda value: not isinstance(value, list))))
    elif how == "header":
        members[member] = _npy(0, draw(_HEADERS).encode())
    elif how == "labels":
        labels = draw(
            st.lists(
                st.one_of(
                    st.integers(-5, 5),
                    st.sampled_from([10**6, 2 * 10**9, 2**63 - 1, -(2**63)]),
                ),
                max_size=6,
            )
        )
        dtype = draw(st.sampled_from(["i8", "u8", "i1", "u2", ">i4", "f8", "?"]))
        members[member] = _npy(np.array(labels, "i8").astype(dtype))
    elif how == "removed":
        del members[member]
    elif how == "bytes":
        members[member], _ = draw(damaged_bytes(members[member]))
    else:
        members[member.removesuffix(".npy")] = members[member][:50]
    method = draw(
        st.sampled_from(
            [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
        )
    )
    files: dict[str, bytes] = {**_imagenet(), f"{name}.npz": _zip(members, method)}
    if draw(st.integers(0, 4)) == 0:
        names = b"n01 1 cat\nn02 2 dog\nn03 3 owl\n"
        files["map_clsloc.txt"], _ = draw(damaged_bytes(names))
    return Input(f"{name}, {member}: {how}", files)


@st.composite
def _npz_damaged(draw: st.DrawFn) -> Input:
    name = f"{draw(st.sampled_from(_PARTS))}.npz"
    content, how = _imagenet()[name], "intact"
    for _ in range(draw(st.sampled_from([1, 1, 2, 6]))):
        content, how = draw(damaged_bytes(content)) if content else (b"", "empty")
    return Input(f"{name}, {how}", {**_imagenet(), name: content})


@cache
def _npz_bomb(member: str, mebibytes: int) -> bytes:
    """Return an archive of zeros that is much smaller than its content."""
    rows = mebibytes * 2**20 // (3072 if member == "data" else 8)
    shape = (rows, 3072) if member == "data" else (rows,)
    header = {"descr": "|u1" if member == "data" else "<i8", "fortran_order": False, "shape": shape}
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    # Deflated once and repeated, as in `images._zeros`. The checksum is wrong, which is only
    # noticed at the end.
    packer = zlib.compressobj(9, wbits=-15)
    start = packer.compress(file.getvalue()) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    content = start + block * mebibytes + packer.flush()
    size = len(file.getvalue()) + mebibytes * 2**20
    name = f"{member}.npy".encode()
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, len(content), size, len(name), 0)
    central = struct.pack(
        "<4s6H3I5H2I",
        b"PK\1\2",
        20,
        20,
        0,
        8,
        0,
        0,
        0,
        len(content),
        size,
        len(name),
        0,
        0,
        0,
        0,
        0,
        0,
    )
    body = local + name + content
    directory = central + name
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(directory), len(body), 0)
    return body + directory + end


@st.composite
def _npz_bombs(draw: st.DrawFn) -> Input:
    member = draw(st.sampled_from(["data", "labels"]))
    mebibytes = draw(st.sampled_from([800, 950, 4000]))
    name = draw(st.sampled_from(_PARTS))
    content = _npz_bomb(member, mebibytes)
    return Input(
        f"{name}, {member}: {mebibytes} MiB in {len(content):,} bytes",
        {**_imagenet(), f"{name}.npz": content},
        expected="refused",
    )


def _read_imagenet(item: Input, folder: Path) -> None:
    read_source(open_imagenet32(folder / "input"))


KINDS = [
    Kind("archives/cifar values", _cifar_values(), _read_cifar, share=40),
    Kind("archives/cifar code", _cifar_code(), _read_cifar, share=15),
    Kind("archives/cifar opcodes", _opcodes(), _read_cifar, share=10),
    Kind("archives/cifar damaged", _cifar_damaged(), _read_cifar, share=60),
    Kind("archives/npz values", _npz_values(), _read_imagenet, share=40),
    Kind("archives/npz damaged", _npz_damaged(), _read_imagenet, share=60),
    Kind("archives/npz bombs", _npz_bombs(), _read_imagenet, share=1),
]
