"""Reading the pickle files that data sets are published in, without the power to run code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from selfie_pipeline.config import UserError

_ALLOWED = {
    # An array's constructor under the names it had before and since NumPy 2
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


class _ArrayUnpickler(pickle.Unpickler):
    """Knows arrays and Python's own containers, numbers and strings; nothing else."""

    def __init__(self, path: Path, file: Any) -> None:
        # The files come from Python 2; its strings stay bytes, which spares the pixels a detour
        super().__init__(file, encoding="bytes")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise UserError(
                f"{self._path} asks for {module}.{name}, which a file of arrays does not need and "
                "which could run code; it was not read: get the file from its publisher"
            )
        return super().find_class(module, name)


def read_arrays(path: Path) -> dict[str, Any]:
    """Read a pickled dictionary of arrays, lists, numbers and strings.

    Args:
        path: A pickle file of protocol 0 to 4, written by Python 2 or 3.

    Returns:
        The dictionary, its keys as str; what Python 2 wrote as a string is bytes among its values.

    Raises:
        UserError: The file is missing, damaged, no dictionary, or asks for anything that is not
            an array; then nothing of what it asks for has been called. The message names the
            file.
    """
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(path, file).load()
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    except Exception as error:  # bytes that are no pickle can raise whatever there is
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}); put a whole copy in its place"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; allowed: a dictionary of arrays")
    return {as_text(key): value for key, value in content.items()}


def as_text(value: bytes | str) -> str:
    """A string that Python 2 (bytes) or 3 (str) wrote, as str."""
    return value.decode("latin1") if isinstance(value, bytes) else value
