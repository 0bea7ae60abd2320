"""Fixtures: small files in the layout of CIFAR-10, and real images."""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from selfie_pipeline.config import DataConfig
from selfie_pipeline.sources import Source, decoding

CLASS_NAMES = [b"airplane", b"automobile", b"bird"]


class Python2Pickler(pickle._Pickler):
    """A pickler that writes bytes with the opcode of Python 2 strings."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, text: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(text)) + text)
        self.memoize(text)

    dispatch[bytes] = save_string


def write(path: Path, content: Any) -> None:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    # Before NumPy 2, the module had no underscore.
    path.write_bytes(file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core."))


def make_batch(images: int, seed: int) -> dict[bytes, Any]:
    generator = np.random.default_rng(seed)
    return {
        b"batch_label": b"a batch",
        b"labels": [int(label) for label in np.arange(images) % len(CLASS_NAMES)],
        b"data": generator.integers(0, 256, (images, 3072), dtype=np.uint8),
        b"filenames": [b"image.png"] * images,
    }


WritePython2 = Callable[[Path, Any], None]


@pytest.fixture
def write_python2() -> WritePython2:
    """Return a function that pickles an object as Python 2 with an old NumPy did."""
    return write


@pytest.fixture
def batches() -> dict[str, dict[bytes, Any]]:
    """Return CIFAR-10's batches by file name: 20 training and 3 test images of 3 classes."""
    training = {f"data_batch_{number}": make_batch(4, number) for number in range(1, 6)}
    return training | {"test_batch": make_batch(3, 6)}


@pytest.fixture
def cifar_folder(tmp_path: Path, batches: dict[str, dict[bytes, Any]]) -> Path:
    """Return a folder with the batches in CIFAR-10's layout."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, batch in batches.items():
        write(folder / name, batch)
    write(folder / "batches.meta", {b"label_names": CLASS_NAMES, b"num_vis": 3072})
    return folder


def shared(folder: str) -> Path:
    """Return a folder of real images beside the repository; skip the test if there is none."""
    path = (Path(__file__).parents[2] / "../shared/data" / folder).resolve()
    if not path.is_dir():
        pytest.skip(f"{path} is absent")
    return path


@pytest.fixture(scope="session")
def cifar_mini() -> Path:
    """Return a subset of the real CIFAR-10 in the published layout."""
    return shared("cifar-10-mini/cifar-10-batches-py")


@pytest.fixture(scope="session")
def imagenet32_mini() -> Path:
    """Return 50 classes of Tiny-ImageNet in the published .npz layout of ImageNet 32×32."""
    return shared("imagenet32-mini")


@pytest.fixture(scope="session")
def imagenette_mini() -> Path:
    """Return JPEG files of ten classes of ImageNet, in train/ and val/."""
    return shared("imagenette-mini")


@pytest.fixture
def without_heif() -> Callable[[], AbstractContextManager[None]]:
    """Return a function during whose context HEIC files can't be decoded, as without the extra."""

    @contextmanager
    def without_heif() -> Iterator[None]:
        formats = [name for name in decoding._FORMATS if name != "HEIF"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decoding, "_FORMATS", formats)
            patch.setitem(decoding._REMEDIES, b"heic", "is HEIC; to read it: install the extra")
            yield

    return without_heif


BuildDataConfig = Callable[..., DataConfig]


@pytest.fixture(scope="session")
def data_config() -> BuildDataConfig:
    """Return a function that builds data parameters: those of an image folder, with changes."""

    def build(**changes: Any) -> DataConfig:
        values: dict[str, Any] = {
            "name": "x",
            "source": "image_folder",
            "folder": "raw",
            "labels": None,
            "image_column": None,
            "class_column": None,
            "split_column": None,
            "max_unreadable": 0.0,
            "drop_leaked": False,
        }
        return DataConfig(**values | changes)

    return build


AllImages = Callable[..., NDArray[np.uint8]]


@pytest.fixture(scope="session")
def all_images() -> AllImages:
    """Return a function that reads the images of a source from a sample on into one array."""

    def read(source: Source, canvas_size: int, start: int = 0) -> NDArray[np.uint8]:
        chunks = source.images(source.samples(), canvas_size, start)
        return np.concatenate([chunk.images for chunk in chunks])

    return read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an empty folder for a data set."""
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def make_unreadable() -> Callable[[Path], None]:
    """Return a function that makes subfolders until their path is longer than the system allows."""

    def make(folder: Path) -> None:
        deep = os.open(folder, os.O_RDONLY)
        for _ in range(20):
            os.mkdir("d" * 250, dir_fd=deep)
            below = os.open("d" * 250, os.O_RDONLY, dir_fd=deep)
            os.close(deep)
            deep = below
        os.close(deep)

    return make
