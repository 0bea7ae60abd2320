"""Bad folders of image files: strange names, links, damaged files and ground truths."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat
from tests.hostile.damage import damaged_bytes
from tests.hostile.inputs import Input, Kind, Link, WrongResultError

from selfie_pipeline.config import PatchConfig
from selfie_pipeline.printable import is_printable
from selfie_pipeline.sources.base import Source
from selfie_pipeline.sources.image_files import find_files, read_windows
from selfie_pipeline.sources.image_folder import ImageFolder
from selfie_pipeline.sources.samples import check_samples, count_samples

_CANVAS = 16
_PATCH = PatchConfig(canvas_size=16, image_size=16, patch_size=4, targets=2)
_TEXT = "aé漢🐈 \\'\"$`{}%:;=,#*?[]~-.\n\r\t\x1b\x07\u202e\u2028\ufeff"
_NAMES = st.one_of(
    st.text(alphabet=_TEXT, min_size=1, max_size=8),
    st.text(
        alphabet=st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8
    ),
    st.sampled_from(
        ["cat", "dog", "None", "NA", "007", "1e5", "x" * 200, "con", "-rf", "\udcff\udc80"]
    ),
).filter(lambda name: name not in {".", ".."})


@cache
def image_file(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


_CONTENTS = st.one_of(
    *[st.integers(0, 20).map(image_file)] * 4,
    st.sampled_from([b"", b"notes", image_file(0)[:40], b"\x89PNG\r\n\x1a\n"]),
    st.sampled_from(
        [".", "..", "absent", "../../..", "/dev/zero", "/dev/null", "/proc/self/mem", "image.png"]
    ).map(Link),
)


def _insert(files: dict[str, bytes | Link], name: str, content: bytes | Link) -> None:
    """Add a file, unless one of its parents is a file or its name is that of a folder."""
    parents = {str(parent) for parent in Path(name).parents} - {"."}
    if not parents & files.keys() and not any(known.startswith(f"{name}/") for known in files):
        files[name] = content


@st.composite
def _trees(draw: st.DrawFn) -> Input:
    files: dict[str, bytes | Link] = {}
    roots = ["train/", "test/", "val/", "unlabeled/", "TRAIN/", "Training/", "", "", ".hidden/"]
    if draw(st.booleans()):
        for name in ("cat", "dog"):
            for number in range(3):
                _insert(files, f"train/{name}/{number}.png", image_file(number))
    for _ in range(draw(st.integers(1, 8))):
        folders = draw(st.lists(_NAMES, max_size=2))
        name = draw(_NAMES) + draw(st.sampled_from([".png", ".JPG", ".txt", ""]))
        root = draw(st.sampled_from(roots))
        _insert(
            files, f"{root}{''.join(f'{folder}/' for folder in folders)}{name}", draw(_CONTENTS)
        )
    return Input(", ".join(files)[:100], files)


def read_source(source: Source) -> tuple[pd.DataFrame, int]:
    """Read a data set as the stages do; return its samples and the number of readable images."""
    samples = source.samples()
    check_samples(samples, source.classes)
    count_samples(samples)
    source.fingerprint(samples)
    seen, unreadable = 0, 0
    for chunk in source.images(samples, _CANVAS):
        seen += len(chunk.images)
        unreadable += len(chunk.unreadable)
        if any("\n" in reason for reason in chunk.unreadable.values()):
            raise WrongResultError("a reason of several lines")
    if seen != len(samples):
        raise WrongResultError(f"{seen} images of {len(samples)} samples")
    return samples, seen - unreadable


def _list_and_read(item: Input, folder: Path) -> None:
    source = ImageFolder(folder / "input")
    _, readable = read_source(source)
    intact = sum(content in map(image_file, range(21)) for content in item.files.values())
    if readable > intact + sum(isinstance(file, Link) for file in item.files.values()):
        raise WrongResultError(f"{readable} images of {intact} files were readable")
    if not all(map(is_printable, source.classes)):
        raise WrongResultError("a class name has control characters")


def _find_and_read(item: Input, folder: Path) -> None:
    """Find and read images as `predict` does."""
    found, files = find_files(folder / "input" / item.value)
    windows, reasons, _ = read_windows([found / file for file in files], _PATCH)
    if len(windows) != reasons.count(None) or len(reasons) != len(files):
        raise WrongResultError(f"{len(windows)} images, {len(reasons)} reasons, {len(files)} files")


@st.composite
def _patterns(draw: st.DrawFn) -> Input:
    tree = draw(_trees())
    pattern = draw(
        st.one_of(
            st.sampled_from(
                ["", "*", "**", "**/*.png", "train", "[", "[!]*", "{a,b}", "*/../*", "\0"]
            ),
            st.sampled_from(list(tree.files)),
            _NAMES,
        )
    )
    return Input(f"images={pattern!r}", tree.files, pattern)


@cache
def _meta() -> bytes:
    """Return a small meta.mat as in ImageNet's devkit."""
    file = io.BytesIO()
    synsets = np.zeros(3, [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)])
    for row, name in enumerate(["cat", "dog", "owl"]):
        synsets[row] = (row + 1, name, "words")
    savemat(file, {"synsets": synsets})
    return file.getvalue()


_TRUTHS = {
    "LOC_val_solution.csv": b"ImageId,PredictionString\nimage1,cat 1 2 3 4\nimage2,dog 1 2 3 4 \n",
    "val_annotations.txt": b"image1.png\tcat\t0\t0\t62\t62\nimage2.png\tdog\t0\t0\t1\t1\n",
    "val.txt": b"image1.png cat\nimage2.png dog\n",
    "ILSVRC2012_validation_ground_truth.txt": b"1\n2\n",
}


@st.composite
def _truths(draw: st.DrawFn) -> Input:
    name = draw(st.sampled_from(sorted(_TRUTHS)))
    contents = {name: _TRUTHS[name], "meta.mat": _meta()}
    damaged = draw(st.sampled_from([name, name, "meta.mat"]))
    for _ in range(draw(st.sampled_from([1, 1, 2, 6]))):
        content = contents[damaged]
        contents[damaged], _ = draw(damaged_bytes(content)) if content else (b"", "")
    special = draw(
        st.sampled_from(
            [None] * 4 + [b"\xff\xfe", b'"' * 200_000, b"a,b\n" * 9, b"image1.png \0\n"]
        )
    )
    if special is not None:
        contents[name] = special
    files: dict[str, bytes | Link] = {f"val/{key}": value for key, value in contents.items()}
    for number, label in enumerate(["cat", "dog", "owl"]):
        files[f"train/{label}/{number}.png"] = image_file(number)
        files[f"val/image{number}.png"] = image_file(number)
        files[f"val/ILSVRC2012_val_{number:08d}.JPEG"] = image_file(number)
    return Input(f"{name}, {damaged} damaged", files)


KINDS = [
    Kind("folders/trees", _trees(), _list_and_read, share=50),
    Kind("folders/patterns", _patterns(), _find_and_read, share=30),
    Kind("folders/ground truths", _truths(), _list_and_read, share=50),
]
