"""Source of image files in class folders: the published ImageNet, or a user's own images."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from selfie_pipeline.config import UserError
from selfie_pipeline.sources.base import Chunk, stale_error
from selfie_pipeline.sources.decoding import decode_chunks, has_image_extension, map_ordered
from selfie_pipeline.sources.ground_truth import load_ground_truth
from selfie_pipeline.sources.samples import TEST_SHARE, build_sample_table, draw_test_split

logger = logging.getLogger(__name__)

_TRAIN_FOLDERS = ("train", "training")
_TEST_FOLDERS = ("test", "testing", "val", "valid", "validation", "dev", "eval")
"""Names of the folder of the test split; the first that has labels is taken."""
_UNLABELED_FOLDERS = ("unlabeled", "unlabelled")
_LAYOUT = (
    "put images there, in train/CLASS/ and test/CLASS/ (or in CLASS/ alone), and those without a "
    "class in unlabeled/"
)


class _File(NamedTuple):
    place: str
    """Path relative to the folder of the data set, with slashes."""
    size: int
    """Bytes; -1 for a dead link."""
    class_name: str = ""


class ImageFolder:
    """Images in train/CLASS/, test/CLASS/ and unlabeled/, in subfolders of any depth.

    - Any file may be an image, whatever its name; decoding finds the files that are not.
    - Without train/, every other folder that has images is a class.
    - val/ replaces test/ if there is no test/ with labels. Either may be flat if a ground-truth
      file lists the classes (see `ground_truth`).
    - Without both, a fixed share of each class is the test split (see `draw_test_split`).
    - The splits are also found by their other common names, in upper and lower case.
    - Hidden folders are skipped.
    """

    def __init__(self, folder: Path) -> None:
        """List the files; only a ground-truth file is opened.

        Args:
            folder: Folder of train/ or the class folders, test/ or val/, and unlabeled/, none of
                which is required.

        Raises:
            UserError: There are no training or unlabeled files, or a ground truth is damaged.
        """
        if not folder.is_dir():
            raise UserError(f"{folder} does not exist; {_LAYOUT}")
        self._folder = folder
        named = _find_folders(folder, _TRAIN_FOLDERS)
        train = [file for split in named for file in _list_class_folders(folder, split)]
        if not named:
            train = _list_flat_class_folders(folder)
        test = _list_test_files(folder, {file.class_name for file in train})
        if train and not test:
            train, test = _draw_test_split(train, has_train_folder=bool(named))
        unlabeled = [
            file
            for split in _find_folders(folder, _UNLABELED_FOLDERS)
            for file in _list_files(folder, split)
        ]
        splits = {"train": train, "test": test, "unlabeled": unlabeled}
        files = [file for split in splits.values() for file in split]
        if not files:
            raise UserError(f"{folder} has no files in class folders or unlabeled/; {_LAYOUT}")
        self.classes = tuple(sorted({file.class_name for file in files} - {""}))
        labels = {"": -1, **{name: label for label, name in enumerate(self.classes)}}
        table = build_sample_table(
            [split for split, listed in splits.items() for _ in listed],
            np.array([labels[file.class_name] for file in files], dtype=np.int64),
            [file.place for file in files],
            self.classes,
        )
        self._listed = table.assign(bytes=[file.size for file in files])

    def samples(self) -> pd.DataFrame:
        """Return the table of samples, with the file's size in bytes and sha256 in hex digits.

        The sha256 of an unreadable file is empty.
        """
        digests = tqdm(
            map_ordered(self._digest, self._listed["place"]),
            total=len(self._listed),
            desc="Reading files",
            unit=" images",
            delay=5,
            disable=None,
        )
        return self._listed.assign(sha256=pd.Series(list(digests), dtype="str"))

    def fingerprint(self, samples: pd.DataFrame) -> str:
        """Return the SHA-256 over the files' names, contents, splits and labels, in hex digits.

        Raises:
            UserError: Files were added, removed or resized since the samples were listed.
        """
        if not self._listed.equals(samples[self._listed.columns]):
            raise stale_error()
        digest = hashlib.sha256()
        for column in ("split", "class_name", "place", "sha256"):
            digest.update("\n".join(samples[column]).encode())
        return digest.hexdigest()

    def images(self, samples: pd.DataFrame, canvas_size: int, start: int = 0) -> Iterator[Chunk]:
        """Decode the images on all cores, in the order of the table.

        Raises:
            UserError: A file is not the listed one; the message names it.
        """
        rest = samples.iloc[start:]
        files = zip(rest["place"], rest["sha256"], strict=True)
        return decode_chunks(files, self._load, canvas_size, start)

    def _digest(self, place: str) -> str:
        try:
            with (self._folder / place).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return ""  # the patch stage reports the reason

    def _load(self, listed: tuple[str, str]) -> Path | BinaryIO:
        """Read a listed file (place, sha256); return its path if it can't be read.

        Raises:
            UserError: Its content is not the listed one.
        """
        place, sha256 = listed
        path = self._folder / place
        file: Path | BinaryIO = path
        try:
            content = path.read_bytes()  # once, for both digest and decoder
        except OSError:
            digest = ""  # the decoder returns the reason
        else:
            digest, file = hashlib.sha256(content).hexdigest(), io.BytesIO(content)
        if digest != sha256:
            raise stale_error(f"{path} has")
        return file


def _list_files(folder: Path, split: str) -> list[_File]:
    """List all files below the folder of a split, sorted by place.

    Raises:
        UserError: A folder can't be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} can't be read: {error.strerror}") from error

    top = folder / split
    if not top.is_dir():
        return []
    files = []
    for parent, folders, names in os.walk(top, followlinks=True, onerror=refuse):
        folders[:] = [name for name in folders if _should_enter(parent, name)]
        relative = os.path.relpath(parent, folder).replace(os.sep, "/")
        for name in names:
            size = _file_size(os.path.join(parent, name))
            if size is not None:
                # A name that is not UTF-8 is escaped; its file then counts as unreadable.
                place = os.fsencode(f"{relative}/{name}").decode("utf-8", "backslashreplace")
                files.append(_File(place, size))
    return sorted(files)


def _should_enter(parent: str, name: str) -> bool:
    """Return True unless a folder is hidden or a link to one of its parents."""
    real = os.path.realpath(os.path.join(parent, name))
    real_parent = os.path.realpath(parent)
    return not name.startswith(".") and os.path.commonpath([real, real_parent]) != real


def _file_size(path: str) -> int | None:
    """Return the size in bytes; -1 for a dead link, None for anything but a regular file."""
    try:
        status = os.stat(path)
    except OSError:
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _find_folders(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the subfolders with these names, in upper or lower case, in the order of the names."""
    found = [path.name for path in _list_subfolders(folder) if path.name.casefold() in names]
    return sorted(found, key=lambda name: (names.index(name.casefold()), name))


def _list_subfolders(folder: Path) -> list[Path]:
    """List the subfolders that are not hidden, sorted by name.

    Raises:
        UserError: The folder can't be read.
    """
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} can't be read: {error.strerror}") from error


def _list_flat_class_folders(folder: Path) -> list[_File]:
    """List the files of class folders that are in no split; a folder without images is skipped."""
    splits = {*_TRAIN_FOLDERS, *_TEST_FOLDERS, *_UNLABELED_FOLDERS}
    files: list[_File] = []
    skipped: list[_File] = []
    for path in _list_subfolders(folder):
        if path.name.casefold() in splits:
            continue
        listed = _list_files(folder, path.name)
        is_class = any(has_image_extension(file.place) for file in listed)
        (files if is_class else skipped).extend(listed)
    _log_skipped(skipped, "no file in that folder is named as an image")
    return [file._replace(class_name=file.place.split("/")[0]) for file in files]


def _list_class_folders(folder: Path, split: str) -> list[_File]:
    """List the files of a split in class folders, with the class of each."""
    files, skipped = [], []
    for file in _list_files(folder, split):
        _, *folders, _ = file.place.split("/")
        if folders:
            files.append(file._replace(class_name=folders[0]))
        else:
            skipped.append(file)
    _log_skipped(skipped, f"not in a class folder, {split}/CLASS/")
    return files


def _list_test_files(folder: Path, classes: Collection[str]) -> list[_File]:
    """List the files of the test split with their classes, from the first folder that has some."""
    for split in _find_folders(folder, _TEST_FOLDERS):
        ground_truth = load_ground_truth(folder, split)
        if ground_truth is not None:
            files = _assign_classes(_list_files(folder, split), ground_truth)
        else:
            files = _list_class_folders(folder, split)
        if any(file.class_name in classes for file in files):
            return files
        _log_skipped(files, "train/ has none of their classes")
    return []


def _assign_classes(files: list[_File], ground_truth: Mapping[str, str]) -> list[_File]:
    """Select the files that a ground truth lists by their path in the split, name or stem."""
    found, skipped = [], []
    for file in files:
        path = PurePosixPath(*PurePosixPath(file.place).parts[1:])
        keys = [key for key in (str(path), path.name, path.stem) if key in ground_truth]
        if keys:
            found.append(file._replace(class_name=ground_truth[keys[0]]))
        elif has_image_extension(file.place):
            skipped.append(file)
    _log_skipped(skipped, "not in the ground truth")
    return found


def _draw_test_split(
    files: list[_File], *, has_train_folder: bool
) -> tuple[list[_File], list[_File]]:
    """Split files into training and test files, and say so.

    A file is known by its path from its class folder on, with or without train/ before it.
    """
    names = [file.place.split("/", 1)[1] if has_train_folder else file.place for file in files]
    classes = [file.class_name for file in files]
    is_test = draw_test_split(classes, names)
    logger.info(
        "%s and no test/ or val/ with labels: %g %% of each of the %d classes (%d of %d files) are "
        "the test split, drawn by their names, the same in every run; `samples` lists them",
        "There is a train/" if has_train_folder else "There are class folders without train/",
        100 * TEST_SHARE,
        len(set(classes)),
        is_test.sum(),
        len(files),
    )
    return (
        [file for file, test in zip(files, is_test, strict=True) if not test],
        [file for file, test in zip(files, is_test, strict=True) if test],
    )


def _log_skipped(files: list[_File], reason: str) -> None:
    if files:
        logger.warning("Skipped %d files, such as %s: %s", len(files), files[0].place, reason)
