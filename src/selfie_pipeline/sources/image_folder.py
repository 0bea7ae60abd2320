"""Source of image files in class folders: the published ImageNet, or a user's own images."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import pandas as pd

from selfie_pipeline.config import UserError
from selfie_pipeline.printable import list_first
from selfie_pipeline.progress import track
from selfie_pipeline.sources.base import RESIZING, Chunk, stale_error
from selfie_pipeline.sources.decoding import (
    REFUSED,
    UnreadableImageError,
    decode_chunks,
    find_missing_decoders,
    has_image_extension,
    map_files,
)
from selfie_pipeline.sources.folders import (
    escape_name,
    find_escaped,
    identify,
    scan_folder,
    walk_folders,
)
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
    normalise_unicode,
)
from selfie_pipeline.sources.repeats import drop_repeats, two_roles_error
from selfie_pipeline.sources.samples import SPLITS

_LAYOUT = (
    "put images there, in train/CLASS/ and test/CLASS/ (or in CLASS/ alone), and those without a "
    "class in unlabeled/; or name a table of their classes with data.labels"
)
_MOST_BYTES_IN_MEMORY = 2**25
"""Size up to which a file is read at once, for both digest and decoder; larger ones, twice."""


class ImageFolder:
    """Images in train/CLASS/, test/CLASS/ and unlabeled/, in subfolders of any depth.

    - Any file there may be an image, whatever its name; decoding finds the files that are not.
    - Without train/, every other folder that has images is a class.
    - The splits are also found by their other common names, in upper and lower case; see
      `choose_splits`. That of the tests may be flat if a ground-truth file lists the classes (see
      `ground_truth`); beside class folders, such a file is ignored.
    - With label tables, every other image of the folder belongs to the data set, too, and is
      unlabeled unless it has a row (see `apply_label_tables`).
    - Hidden folders are skipped.
    - Links to folders are followed, but no folder may get two classes (see `drop_repeats`).
    """

    def __init__(self, folder: Path, tables: Sequence[LabelTable] = ()) -> None:
        """List the files; only a ground-truth file is opened.

        Raises:
            UserError: There are no training or unlabeled files, a folder can't be read, the splits
                or classes are one folder deeper, a ground truth is damaged, links give a folder two
                classes or splits, or the label tables contradict themselves or the files.
        """
        if not folder.is_dir():
            problem = "is a file, not a folder" if folder.exists() else "does not exist"
            raise UserError(f"{folder} {problem}; {_LAYOUT}")
        self._folder = folder
        listed = _list_layout(folder)
        if tables:
            listed = drop_repeats(folder, listed)
            labeled = apply_label_tables(listed, tables, folder.absolute())
            listed = [image for image in labeled if _may_be_used(image)]
        else:
            listed = drop_repeats(folder, _skip_unclassified(folder, listed))
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
        files = zip(self._listed["place"], self._listed["bytes"], strict=True)
        digests = map_files(self._digest, files)
        tracked = track("Reading files", len(self._listed), digests, unit=" images")
        return self._listed.assign(sha256=pd.Series(list(tracked), dtype="str"))

    def fingerprint(self, samples: pd.DataFrame) -> str:
        """Return the SHA-256 over the files' names, contents, splits and labels; see `Source`.

        The way of resizing counts, too, and the decoders that files need and that are missing.
        """
        columns = self._listed.columns
        known = {*columns, "sha256"} <= {*samples.columns}
        if not known or not self._listed.equals(samples[columns]):
            raise stale_error()
        digest = hashlib.sha256(RESIZING)
        for column in ("split", "class_name", "place", "sha256"):
            digest.update("\n".join(samples[column]).encode())
        digest.update(find_missing_decoders(samples["place"]))
        return digest.hexdigest()

    def images(self, samples: pd.DataFrame, canvas_size: int, start: int = 0) -> Iterator[Chunk]:
        """Decode the images on all cores; see `Source`."""
        rest = samples.iloc[start:]
        listed = zip(rest["place"], rest["sha256"], strict=True)
        files = zip(listed, rest["bytes"], strict=True)
        return decode_chunks(files, self._load, canvas_size, start)

    def _digest(self, place: str) -> str:
        try:
            with find_escaped(self._folder, place).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return ""  # the patch stage reports the reason

    def _load(self, listed: tuple[str, str]) -> BinaryIO:
        """Open a listed file (place, sha256).

        Raises:
            UnreadableImageError: It can't be read, and could not when it was listed.
            UserError: Its content is not the listed one.
        """
        place, sha256 = listed
        try:
            digest, file = _open_digested(find_escaped(self._folder, place))
        except OSError as error:
            if sha256:
                raise stale_error(f"{self._folder / place} has") from None
            raise UnreadableImageError(f"{REFUSED}{error.strerror}") from error
        if digest != sha256:
            file.close()
            raise stale_error(f"{self._folder / place} has")
        return file


def _open_digested(path: Path) -> tuple[str, BinaryIO]:
    """Return the SHA-256 of a file in hex digits, and the file, in memory unless it is large."""
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        if os.fstat(file.fileno()).st_size <= _MOST_BYTES_IN_MEMORY:
            content = file.read()
            return hashlib.sha256(content).hexdigest(), io.BytesIO(content)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        stack.pop_all()  # it stays open
        return digest, file


def _list_layout(folder: Path) -> list[ListedImage]:
    """List the files of splits, class folders and other folders, sorted by place."""
    subfolders = _list_subfolders(folder)
    has_train = any(path.name.casefold() in TRAIN_NAMES for path in subfolders)
    if not has_train:
        _check_no_split_is_deeper(folder, subfolders)
    parts: dict[str, list[ListedImage]] = {}
    tests = []
    for name in (path.name for path in subfolders):
        split = name.casefold()
        if split in TEST_NAMES:
            tests.append(name)
        elif split in SPLIT_NAMES:
            parts[name] = _list_split(folder, name)
        else:
            images = _list_files(folder, name).images
            is_class = not has_train and any(has_image_extension(i.place) for i in images)
            class_name = normalise_unicode(escape_name(name)) if is_class else ""
            parts[name] = [image._replace(class_name=class_name) for image in images]
    trained = {image.class_name for images in parts.values() for image in images} - {""}
    for name in tests:
        parts[name] = _list_split(folder, name, trained)
    top = _list_files(folder, "", recursive=False).images
    return [*top, *(image for path in subfolders for image in parts[path.name])]


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


def _list_split(
    folder: Path, name: str, trained: Collection[str] = frozenset()
) -> list[ListedImage]:
    """List the files of a split with their classes, which are in a ground truth if it is flat.

    For a test split, `trained` has the classes of the other splits.
    """
    split = name.casefold()
    listed = _list_files(folder, name)
    images = [image._replace(split=split) for image in listed.images]
    if split in UNLABELED_NAMES:
        return images
    below = {_class_folder(image.place, -1) for image in images} - {""}
    is_flat = below.isdisjoint(trained) if trained else len(below) < 2  # noqa: PLR2004
    if split in TEST_NAMES and is_flat:
        ground_truth = load_ground_truth(folder, name)
        if ground_truth is not None:
            return _assign_classes(images, ground_truth)
    for place, first in listed.repeats:
        if _class_folder(place) != _class_folder(first):
            raise two_roles_error(folder, place, first)
    return [image._replace(class_name=_class_folder(image.place, -1)) for image in images]


def _class_folder(place: str, end: int | None = None) -> str:
    """Return the name of the folder below that of the split; "" for none."""
    return normalise_unicode(next(iter(place.split("/")[1:end]), ""))


def _assign_classes(
    images: list[ListedImage], ground_truth: Mapping[str, str]
) -> list[ListedImage]:
    """Select the files that a ground truth lists by their path in the split, name or stem."""
    found, skipped = [], []
    for image in images:
        path = PurePosixPath(*PurePosixPath(normalise_unicode(image.place)).parts[1:])
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
    """Leave out the files that are neither in a class folder nor in unlabeled/, and log them."""
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
    classified = [image for image in images if image.class_name and not image.split]
    names = {image.class_name for image in classified}
    deeper = sorted({i.place.split("/")[1] for i in classified if i.place.count("/") > 1})
    if len(names) == 1 and len(deeper) > 1:
        (name,) = names
        raise UserError(
            f"{folder} has a single class folder, {name}, with the folders {list_first(deeper)}; "
            f"if these are the classes, use data.folder={folder / name}"
        )


class _Files(NamedTuple):
    images: list[ListedImage]
    """Sorted by place."""
    repeats: list[tuple[str, str]]
    """Places of links to folders that are listed already, and of these folders."""


def _list_files(folder: Path, subfolder: str, *, recursive: bool = True) -> _Files:
    """List the files in a subfolder and below."""
    images: list[ListedImage] = []
    repeats: list[tuple[str, str]] = []
    skipped = {identify(folder)} if subfolder else ()
    walk = walk_folders(folder / subfolder, skipped=skipped)
    for walked in walk if recursive else islice(walk, 1):
        parent = _find_place(walked.path, folder)
        if walked.first is not None:
            repeats.append((parent, _find_place(walked.first, folder)))
        for name in walked.files:
            size = _file_size(os.path.join(walked.path, name))
            if size is not None:
                place = escape_name(name) if parent == "." else f"{parent}/{escape_name(name)}"
                images.append(ListedImage(place, size=size, folder=walked.identity))
    return _Files(sorted(images), repeats)


def _find_place(path: str, folder: Path) -> str:
    return escape_name(os.path.relpath(path, folder).replace(os.sep, "/"))


def _file_size(path: str) -> int | None:
    """Return the size in bytes; -1 for a dead link, None for anything but a regular file."""
    try:
        status = os.stat(path)
    except OSError:
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _list_subfolders(folder: Path) -> list[Path]:
    """List the subfolders as `scan_folder` does."""
    try:
        return [Path(path) for path in scan_folder(folder)[1]]
    except OSError as error:
        raise UserError(f"{folder} can't be read: {error.strerror}") from error
