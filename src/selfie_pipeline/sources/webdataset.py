"""Reader of images in tar files in the layout of WebDataset: 000017.jpg beside 000017.cls."""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Iterator, Mapping
from itertools import compress, groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfie_pipeline.config import UserError
from selfie_pipeline.printable import shorten
from selfie_pipeline.sources.base import damaged_error
from selfie_pipeline.sources.decoding import has_image_extension

logger = logging.getLogger(__name__)

_LARGEST_CLASS_BYTES = 1000
_DAMAGE = (OSError, tarfile.TarError, ValueError, OverflowError)  # the last two by wrong sizes


class _Member(NamedTuple):
    """A file in a tar file; the name up to the first dot is that of its sample."""

    sample: str
    extension: str
    offset: int
    size: int


def has_classes(path: Path) -> bool:
    """Return True if the first sample of a tar file is an image with a class."""
    try:
        first = next(_read_samples(path), {})
    except _DAMAGE:
        return False
    return "cls" in first and _find_image(first) is not None


class WebDatasetReader:
    """A reader of tar shards; the class of an image is the text of its .cls file."""

    class_names: tuple[str, ...] = ()

    def list_images(self, path: Path) -> Iterator[tuple[str, str]]:
        """Yield the name in the tar file and the class of each image; see `ShardReader`."""
        skipped = unlabeled = 0
        orphans = []  # samples with a class, but without an image
        try:
            with path.open("rb") as file:
                for members in _read_samples(path):
                    image, cls = _find_image(members), members.get("cls")
                    if image is None:
                        skipped += 1
                        orphans += [cls.sample] if cls else []
                        continue
                    class_name = _read_class(path, file, cls) if cls else ""
                    unlabeled += not class_name
                    yield f"/{image.sample}.{image.extension}", class_name
        except _DAMAGE as error:
            raise damaged_error(path, error) from error
        if orphans and unlabeled:
            raise UserError(
                f"{path}: {len(orphans)} classes have no image beside them, such as "
                f"{shorten(orphans[0])}.cls, and {unlabeled} images have no class; the files of a "
                "sample must follow one another: pack them by name (tar --sort=name)"
            )
        if skipped:
            logger.warning("%s: %d samples without an image are skipped", path, skipped)

    def read_images(self, path: Path, rows: NDArray[np.int64]) -> Iterator[bytes]:
        """Yield the image files of some samples; see `ShardReader`."""
        try:
            with path.open("rb") as file:
                images = filter(None, map(_find_image, _read_samples(path)))
                is_wanted = np.isin(np.arange(rows[-1] + 1), rows)
                for image in compress(images, is_wanted):
                    file.seek(image.offset)
                    yield file.read(image.size)
        except _DAMAGE as error:
            raise damaged_error(path, error) from error


def _read_samples(path: Path) -> Iterator[Mapping[str, _Member]]:
    """Yield the members of each sample by their extension in lower case."""
    for _, members in groupby(_read_members(path), key=lambda member: member.sample):
        yield {member.extension.lower(): member for member in members}


def _read_members(path: Path) -> Iterator[_Member]:
    with tarfile.open(path, "r:") as tar:
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # they would grow with the file
            folder, _, name = info.name.removeprefix("./").rpartition("/")
            stem, _, extension = name.partition(".")
            if info.isreg() and not info.issparse() and stem:
                sample = f"{folder}/{stem}" if folder else stem
                yield _Member(sample, extension, info.offset_data, info.size)
        with path.open("rb") as file:  # a damaged header looks like the end to tarfile
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"the header at byte {tar.offset} is damaged")


def _find_image(members: Mapping[str, _Member]) -> _Member | None:
    """Return the first member whose whole extension is that of an image: jpg, but not seg.png."""
    return next(
        (m for ext, m in members.items() if "." not in ext and has_image_extension(f"image.{ext}")),
        None,
    )


def _read_class(path: Path, file: BinaryIO, member: _Member) -> str:
    file.seek(member.offset)
    content = file.read(min(member.size, _LARGEST_CLASS_BYTES))
    try:
        return content.decode().strip()
    except UnicodeDecodeError:
        raise damaged_error(path, f"{member.sample}.cls is no text") from None
