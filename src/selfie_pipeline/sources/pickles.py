"""Safe reading of the pickle files in which data sets are published: no code in them is run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from selfie_pipeline.config import UserError
from selfie_pipeline.sources.base import damaged_error

_ALLOWED = {
    # The array constructor, under its names before and since NumPy 2.
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler of arrays and of Python's built-in containers, numbers and strings only."""

    def __init__(self, path: Path, file: Any) -> None:
        # Python 2 wrote the files; its strings stay bytes, so that the pixels need no decoding.
        super().__init__(file, encoding="bytes")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise UserError(
                f"{self._path} refers to {module}.{name}, which a file of arrays does not need and "
                "which could run code; it was not read: download the file from its publisher"
            )
        return super().find_class(module, name)


def read_arrays(path: Path) -> dict[str, Any]:
    """Read a pickled dictionary of arrays, lists, numbers and strings.

    Args:
        path: A pickle file of protocol 0 to 2 by Python 2, 3 or 4 by Python 3.

    Returns:
        The dictionary, with str keys; strings among its values are bytes if Python 2 wrote them.

    Raises:
        UserError: The file is missing, damaged or not a dictionary, or refers to anything but
            arrays, none of which has been called. The message names the file.
    """
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(path, file).load()
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    except Exception as error:  # damaged pickles can raise any exception
        raise damaged_error(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; allowed: a dictionary of arrays")
    return {to_str(key): value for key, value in content.items()}


def to_str(value: bytes | str) -> str:
    """Convert a string written by Python 2 (bytes) or 3 (str) to str."""
    return value.decode("latin1") if isinstance(value, bytes) else value
