"""Source of image files in class folders: the published ImageNet, or a user's own images."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pandas as pd
from tqdm import tqdm

from selfie_pipeline.config import UserError
from selfie_pipeline.printable import list_first
from selfie_pipeline.sources.base import Chunk, stale_error
from selfie_pipeline.sources.decoding import decode_chunks, has_image_extension, map_ordered
from selfie_pipeline.sources.ground_truth import load_ground_truth
from selfie_pipeline.sources.label_tables import LabelTable, apply_label_tables
from selfie_pipeline.sources.listing import (
    SPLIT_NAMES,
    TEST_NAMES,
    TRAIN_NAMES,
    UNLABELED_NAMES,
    ListedImage,
    build_table,
    choose_splits,
    log_skipped,
)
from selfie_pipeline.sources.samples import SPLITS

_LAYOUT = (
    "put images there, in train/CLASS/ and test/CLASS/ (or in CLASS/ alone), and those without a "
    "class in unlabeled/; or name a table of their classes with data.labels"
)


class ImageFolder:
    """Images in train/CLASS/, test/CLASS/ and unlabeled/, in subfolders of any depth.

    - Any file there may be an image, whatever its name; decoding finds the files that are not.
    - Without train/, every other folder that has images is a class.
    - The splits are also found by their other common names, in upper and lower case; see
      `choose_splits`. That of the tests may be flat if a ground-truth file lists the classes (see
      `ground_truth`).
    - With label tables, every other image of the folder belongs to the data set, too, and is
      unlabeled unless it has a row (see `apply_label_tables`).
    - Hidden folders are skipped.
    """

    def __init__(self, folder: Path, tables: Sequence[LabelTable] = ()) -> None:
        """List the files; only a ground-truth file is opened.

        Args:
            folder: Folder of the images.
            tables: Label tables.

        Raises:
            UserError: There are no training or unlabeled files, a ground truth is damaged, or the
                label tables contradict themselves or the files.
        """
        if not folder.is_dir():
            raise UserError(f"{folder} does not exist; {_LAYOUT}")
        self._folder = folder
        listed = _list_layout(folder)
        if tables:
            labeled = apply_label_tables(listed, tables, folder.absolute())
            listed = [image for image in labeled if _may_be_used(image)]
        else:
            listed = _skip_unclassified(folder, listed)
        images = choose_splits(listed)
        images.sort(key=lambda image: SPLITS.index(image.split))
        if not images:
            raise UserError(f"{folder} has no files in class folders or unlabeled/; {_LAYOUT}")
        self.classes = tuple(sorted({image.class_name for image in images} - {""}))
        table = build_table(images, self.classes)
        self._listed = table.assign(bytes=[image.size for image in images])

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


def _list_layout(folder: Path) -> list[ListedImage]:
    """List the files of splits, class folders and other folders, sorted by place.

    Raises:
        UserError: A folder can't be read, or the splits are one folder deeper.
    """
    subfolders = _list_subfolders(folder)
    has_train = any(path.name.casefold() in TRAIN_NAMES for path in subfolders)
    if not has_train:
        _check_no_split_is_deeper(folder, subfolders)
    images = _list_files(folder, "", recursive=False)
    for path in subfolders:
        split = path.name.casefold()
        if split in SPLIT_NAMES:
            images += [image._replace(split=split) for image in _list_split(folder, path.name)]
        else:
            listed = _list_files(folder, path.name)
            is_class = not has_train and any(has_image_extension(i.place) for i in listed)
            class_name = path.name if is_class else ""
            images += [image._replace(class_name=class_name) for image in listed]
    return images


def _check_no_split_is_deeper(folder: Path, subfolders: Sequence[Path]) -> None:
    """Raise if there is a folder such as photographs/train instead of train/."""
    wrappers = [
        path.name
        for path in subfolders
        if path.name.casefold() not in SPLIT_NAMES
        and any(below.name.casefold() in TRAIN_NAMES for below in _list_subfolders(path))
    ]
    if wrappers:
        raise UserError(
            f"{folder} has no train/, but {len(wrappers)} of its folders have: "
            f"{list_first(wrappers)}; name one with data.folder, as in {folder / wrappers[0]}, or, "
            "if they are classes, put train/ above them: train/CLASS/"
        )


def _list_split(folder: Path, split: str) -> list[ListedImage]:
    """List the files of a split with their classes.

    Raises:
        UserError: A folder can't be read, or a ground truth is damaged.
    """
    images = _list_files(folder, split)
    if split.casefold() in UNLABELED_NAMES:
        return images
    if split.casefold() in TEST_NAMES:
        ground_truth = load_ground_truth(folder, split)
        if ground_truth is not None:
            return _assign_classes(images, ground_truth)
    parents = [image.place.split("/")[1:-1] for image in images]
    return [
        image._replace(class_name=folders[0] if folders else "")
        for image, folders in zip(images, parents, strict=True)
    ]


def _assign_classes(
    images: list[ListedImage], ground_truth: Mapping[str, str]
) -> list[ListedImage]:
    """Select the files that a ground truth lists by their path in the split, name or stem."""
    found, skipped = [], []
    for image in images:
        path = PurePosixPath(*PurePosixPath(image.place).parts[1:])
        keys = [key for key in (str(path), path.name, path.stem) if key in ground_truth]
        if keys:
            found.append(image._replace(class_name=ground_truth[keys[0]]))
        elif has_image_extension(image.place):
            skipped.append(image)
    log_skipped(skipped, "not in the ground truth")
    return found


def _may_be_used(image: ListedImage) -> bool:
    """Return True if a file has a class, is unlabeled for certain, or is named as an image."""
    return (
        bool(image.class_name) or image.split in UNLABELED_NAMES or has_image_extension(image.place)
    )


def _skip_unclassified(folder: Path, images: list[ListedImage]) -> list[ListedImage]:
    """Leave out the files that are neither in a class folder nor in unlabeled/, and log them.

    Raises:
        UserError: A single folder has all images, and class folders in it.
    """
    kept: list[ListedImage] = []
    skipped: dict[str, list[ListedImage]] = defaultdict(list)
    for image in images:
        if image.class_name or image.split in UNLABELED_NAMES:
            kept.append(image)
        elif image.split:
            split = image.place.split("/")[0]
            skipped[f"not in a class folder, {split}/CLASS/"].append(image)
        elif "/" in image.place or has_image_extension(image.place):
            skipped["neither in a split (train/, test/ …) nor in a folder with images"].append(
                image
            )
    for reason, files in skipped.items():
        log_skipped(files, reason)
    _check_classes_are_not_deeper(folder, kept)
    return kept


def _check_classes_are_not_deeper(folder: Path, images: Sequence[ListedImage]) -> None:
    """Raise if there is a folder such as photographs/cat instead of cat/."""
    classes = {image.class_name for image in images if not image.split} - {""}
    if len(classes) != 1:
        return
    (name,) = classes
    deeper = sorted({image.place.split("/")[1] for image in images if image.place.count("/") > 1})
    if len(deeper) > 1:
        raise UserError(
            f"{folder} has a single class folder, {name}, with the folders {list_first(deeper)}; "
            f"if these are the classes, use data.folder={folder / name}"
        )


def _list_files(folder: Path, subfolder: str, *, recursive: bool = True) -> list[ListedImage]:
    """List the files in a subfolder and below, sorted by place.

    Raises:
        UserError: A folder can't be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} can't be read: {error.strerror}") from error

    files = []
    for parent, folders, names in os.walk(folder / subfolder, followlinks=True, onerror=refuse):
        folders[:] = [name for name in folders if recursive and _should_enter(parent, name)]
        relative = os.path.relpath(parent, folder).replace(os.sep, "/")
        for name in names:
            size = _file_size(os.path.join(parent, name))
            if size is not None:
                # A name that is not UTF-8 is escaped; its file then counts as unreadable.
                path = name if relative == "." else f"{relative}/{name}"
                place = os.fsencode(path).decode("utf-8", "backslashreplace")
                files.append(ListedImage(place, size=size))
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


def _list_subfolders(folder: Path) -> list[Path]:
    """List the subfolders that are not hidden, sorted by name.

    Raises:
        UserError: The folder can't be read.
    """
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} can't be read: {error.strerror}") from error
