"""Source of images in shards: files that hold many images each, such as Parquet and tar files."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from selfie_pipeline.config import UserError
from selfie_pipeline.sources.base import RESIZING, Chunk, digest_files, stale_error
from selfie_pipeline.sources.decoding import (
    UnreadableImageError,
    decode_chunks,
    find_missing_decoders,
)
from selfie_pipeline.sources.label_tables import LabelTable, apply_label_tables
from selfie_pipeline.sources.listing import (
    ListedImage,
    build_table,
    choose_splits,
    find_split,
    normalise_unicode,
)


class ShardReader(Protocol):
    """A reader of one format of shards."""

    @property
    def class_names(self) -> Sequence[str]:
        """Published names in the order of their labels; perhaps empty, perhaps more than occur."""

    def list_images(self, path: Path) -> Iterator[tuple[str, str]]:
        """Yield the place in the shard and the class of each image; "" for none.

        Raises:
            UserError: The shard is damaged; the message names it.
        """
        ...

    def read_images(self, path: Path, rows: NDArray[np.int64]) -> Iterator[bytes | None]:
        """Yield the files of some images, with constant memory; None for an image without one.

        Args:
            path: The shard.
            rows: (n,), int64, ascending: numbers of the images among all that `list_images` yields.

        Raises:
            UserError: The shard is damaged; the message names it.
        """
        ...


class Shards:
    """Images in shards, whose splits are in their names: train-00000-of-00002.parquet."""

    def __init__(
        self,
        folder: Path,
        paths: Sequence[Path],
        reader: ShardReader,
        tables: Sequence[LabelTable] = (),
    ) -> None:
        """List the images.

        Raises:
            UserError: A shard is damaged, there are no images, or the label tables contradict
                themselves or the images.
        """
        self._paths = paths
        self._reader = reader
        listed: list[ListedImage] = []
        self._firsts = [0]
        for path in paths:
            place = path.relative_to(folder).as_posix()
            split = find_split(place)
            for row, (inside, class_name) in enumerate(reader.list_images(path), self._firsts[-1]):
                listed.append(
                    ListedImage(place + inside, split, normalise_unicode(class_name), row=row)
                )
            self._firsts.append(len(listed))
        if tables:
            listed = apply_label_tables(listed, tables, folder.absolute())
        images = choose_splits(listed)
        if not images:
            raise UserError(f"the shards in {folder} have no training or unlabeled images")
        self._rows = np.array([image.row for image in images], dtype=np.int64)
        present = {image.class_name for image in images} - {""}
        published = list(dict.fromkeys(map(normalise_unicode, reader.class_names)))
        self.classes = _order_classes(present, published)
        self._listed = build_table(images, self.classes)

    def samples(self) -> pd.DataFrame:
        """Return the table of samples, in the order of the shards."""
        return self._listed.copy()

    def fingerprint(self, samples: pd.DataFrame) -> str:
        """Return the SHA-256 over shards, places, splits and classes; see `Source`.

        The way of resizing counts, too, and the decoders that images need and that are missing.
        """
        if not self._listed.equals(samples):
            raise stale_error()
        digest = hashlib.sha256(RESIZING + digest_files(self._paths).encode())
        for column in ("split", "class_name", "place"):
            digest.update("\n".join(samples[column]).encode())
        digest.update(find_missing_decoders(samples["place"]))
        return digest.hexdigest()

    def images(self, samples: pd.DataFrame, canvas_size: int, start: int = 0) -> Iterator[Chunk]:  # noqa: ARG002
        """Decode the images on all cores, while shards are read one by one; see `Source`."""
        contents = self._read(self._rows[start:])
        files = ((content, len(content or b"")) for content in contents)
        return decode_chunks(files, _open_bytes, canvas_size, start)

    def _read(self, rows: NDArray[np.int64]) -> Iterator[bytes | None]:
        """Read the files of images, by their numbers in all shards."""
        limits = np.searchsorted(rows, self._firsts)  # (shards + 1,)
        for path, first, (begin, end) in zip(
            self._paths, self._firsts[:-1], pairwise(limits), strict=True
        ):
            if begin < end:
                yield from self._reader.read_images(path, rows[begin:end] - first)


def _open_bytes(content: bytes | None) -> BinaryIO:
    if content is None:
        raise UnreadableImageError("its bytes are not in the shard")
    return io.BytesIO(content)


def _order_classes(present: Collection[str], published: Sequence[str]) -> tuple[str, ...]:
    """Order class names as published; others by number, then by name."""
    others = sorted(
        set(present) - set(published),
        key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name),
    )
    return (*(name for name in published if name in present), *others)
