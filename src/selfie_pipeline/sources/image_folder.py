"""Folders of images: ImageNet as it is published, and anybody's own."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from selfie_pipeline.config import UserError
from selfie_pipeline.sources.base import CHUNK_BYTES, Chunk, changed
from selfie_pipeline.sources.decoding import (
    UnreadableImageError,
    claims_to_be_image,
    in_order,
    try_decode,
)
from selfie_pipeline.sources.ground_truth import find_ground_truth
from selfie_pipeline.sources.samples import sample_table

logger = logging.getLogger(__name__)

_TEST_SHARE = 0.2
_SPLIT_SEED = 0
_LAYOUT = (
    "put images there, in train/CLASS/ and test/CLASS/ (or val/), and those without a class in "
    "unlabeled/"
)


class _File(NamedTuple):
    place: str
    """Relative to the data set's folder, with slashes."""
    size: int
    """Bytes; -1 for a link that leads nowhere."""
    class_name: str = ""


class ImageFolder:
    """Images in train/CLASS/, test/CLASS/ and unlabeled/, with any folders below.

    - Any file may be an image, whatever its name; what is none is found out when it is decoded.
    - `val` is read for `test` where there is no `test` with labels. Either may be flat, if a file
      says the classes (see `ground_truth`).
    - Without both, a fixed share of each class of `train` is the test split.
    - Hidden folders are not entered.
    """

    def __init__(self, folder: Path) -> None:
        """List the files; none is opened but a ground truth.

        Args:
            folder: Where train/, test/ or val/, and unlabeled/ lie; none of them is a must.

        Raises:
            UserError: There is nothing of the kind, or a ground truth is damaged.
        """
        if not folder.is_dir():
            raise UserError(f"{folder} is not there; {_LAYOUT}")
        self._folder = folder
        train = _in_class_folders(folder, "train")
        test = _test_files(folder, {file.class_name for file in train})
        if train and not test:
            train, test = _cut_test_split(train)
        splits = {"train": train, "test": test, "unlabeled": _files(folder, "unlabeled")}
        files = [file for split in splits.values() for file in split]
        if not files:
            raise UserError(f"{folder} has no files in train/CLASS/ or unlabeled/; {_LAYOUT}")
        self.classes = tuple(sorted({file.class_name for file in files} - {""}))
        numbers = {"": -1, **{name: label for label, name in enumerate(self.classes)}}
        table = sample_table(
            [split for split, listed in splits.items() for _ in listed],
            np.array([numbers[file.class_name] for file in files], dtype=np.int64),
            [file.place for file in files],
            self.classes,
        )
        self._listed = table.assign(bytes=[file.size for file in files])

    def samples(self) -> pd.DataFrame:
        """The table of samples, with two more columns: the file's bytes, and their sha256 in hex.

        Where a file can't be read, sha256 is empty.
        """
        digests = in_order(self._digest, self._listed["place"])
        progress = tqdm(
            digests,
            total=len(self._listed),
            desc="Reading files",
            unit=" images",
            delay=5,
            disable=None,
        )
        return self._listed.assign(sha256=pd.Series(list(progress), dtype="str"))

    def fingerprint(self, samples: pd.DataFrame) -> str:
        """SHA-256 over the files' names, contents, splits and labels, in hex digits.

        Raises:
            UserError: Files came, went, or changed their size since the samples were listed.
        """
        if not self._listed.equals(samples[self._listed.columns]):
            raise changed()
        digest = hashlib.sha256()
        for column in ("split", "class_name", "place", "sha256"):
            digest.update("\n".join(samples[column]).encode())
        return digest.hexdigest()

    def images(self, samples: pd.DataFrame, canvas_size: int, start: int = 0) -> Iterator[Chunk]:
        """The images in the table's order, decoded on all cores.

        Raises:
            UserError: A file is not the one that was listed; the message names it.
        """
        rest = samples.iloc[start:]
        decoded = in_order(
            partial(self._decode, canvas_size), zip(rest["place"], rest["sha256"], strict=True)
        )
        step = max(1, CHUNK_BYTES // (3 * canvas_size**2))
        nothing = np.zeros((canvas_size, canvas_size, 3), dtype=np.uint8)
        while some := list(islice(decoded, step)):
            reasons = {
                start + row: str(image)
                for row, image in enumerate(some)
                if isinstance(image, UnreadableImageError)
            }
            images = [nothing if isinstance(i, UnreadableImageError) else i for i in some]
            yield Chunk(np.stack(images), reasons)  # (n, canvas_size, canvas_size, 3)
            start += len(some)

    def _digest(self, place: str) -> str:
        try:
            with (self._folder / place).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return ""  # the patch stage says why

    def _decode(
        self, canvas_size: int, listed: tuple[str, str]
    ) -> NDArray[np.uint8] | UnreadableImageError:
        """An image, or why there is none."""
        place, sha256 = listed
        file: Path | BinaryIO = self._folder / place
        try:
            content = (self._folder / place).read_bytes()  # once, for the digest and the decoder
        except OSError:
            digest = ""  # the decoder says why
        else:
            digest, file = hashlib.sha256(content).hexdigest(), io.BytesIO(content)
        if digest != sha256:
            raise changed(f"{self._folder / place} has")
        return try_decode(file, canvas_size)


def _files(folder: Path, below: str) -> list[_File]:
    """All files below one of the folders, by their places."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} can't be read: {error.strerror}") from error

    top = folder / below
    if not top.is_dir():
        return []
    found = []
    for where, folders, names in os.walk(top, followlinks=True, onerror=refuse):
        folders[:] = [name for name in folders if _to_be_entered(where, name)]
        above = os.path.relpath(where, folder).replace(os.sep, "/")
        for name in names:
            size = _size(os.path.join(where, name))
            if size is not None:
                # A name that is no UTF-8 is written out; then the file is one that can't be read
                place = os.fsencode(f"{above}/{name}").decode("utf-8", "backslashreplace")
                found.append(_File(place, size))
    return sorted(found)


def _to_be_entered(where: str, name: str) -> bool:
    """Whether a folder is not hidden, nor a link to one that it lies in."""
    real = os.path.realpath(os.path.join(where, name))
    around = os.path.realpath(where)
    return not name.startswith(".") and os.path.commonpath([real, around]) != real


def _size(path: str) -> int | None:
    """Of a file; -1 for a link that leads nowhere, None for what is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _in_class_folders(folder: Path, split: str) -> list[_File]:
    """The files of a split, with their class: the first folder below."""
    found, stray = [], []
    for file in _files(folder, split):
        _, *folders, _ = file.place.split("/")
        if folders:
            found.append(file._replace(class_name=folders[0]))
        else:
            stray.append(file)
    _leave_aside(stray, f"not in a class's folder, which would be {split}/CLASS/")
    return found


def _test_files(folder: Path, classes: Collection[str]) -> list[_File]:
    """The files of the test split with their classes, from `test` or else from `val`."""
    for split in ("test", "val"):
        truth = find_ground_truth(folder, split)
        if truth is not None:
            files = _in_ground_truth(_files(folder, split), truth)
        else:
            files = _in_class_folders(folder, split)
        if any(file.class_name in classes for file in files):
            return files
        _leave_aside(files, "in no class that train/ has")
    return []


def _in_ground_truth(files: list[_File], truth: Mapping[str, str]) -> list[_File]:
    """The files that a ground truth names, by their place in the split, their name or its stem."""
    found, stray = [], []
    for file in files:
        place = PurePosixPath(*PurePosixPath(file.place).parts[1:])
        names = [name for name in (str(place), place.name, place.stem) if name in truth]
        if names:
            found.append(file._replace(class_name=truth[names[0]]))
        elif claims_to_be_image(file.place):
            stray.append(file)
    _leave_aside(stray, "not in the ground truth")
    return found


def _cut_test_split(files: list[_File]) -> tuple[list[_File], list[_File]]:
    """Take a fixed share of each class for the test split; one sample at least, if it has two."""
    random = np.random.default_rng(_SPLIT_SEED)
    classes = pd.Series([file.class_name for file in files])
    test = np.zeros(len(files), dtype=bool)
    for _, rows in classes.groupby(classes):  # in the order of the names
        size = min(len(rows) - 1, max(1, round(_TEST_SHARE * len(rows))))
        test[random.choice(rows.index, size, replace=False)] = True
    logger.info(
        "There is neither test/ nor val/ with labels: %g %% of each class of train/ (%d of %d "
        "files, drawn with the fixed seed %d) are the test split",
        100 * _TEST_SHARE,
        test.sum(),
        len(files),
        _SPLIT_SEED,
    )
    return (
        [file for file, is_test in zip(files, test, strict=True) if not is_test],
        [file for file, is_test in zip(files, test, strict=True) if is_test],
    )


def _leave_aside(files: list[_File], why: str) -> None:
    if files:
        logger.warning("%d files are left aside, such as %s: %s", len(files), files[0].place, why)
