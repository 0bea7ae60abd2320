"""Tests of reading pickle files without running code."""

import os
import pickle

import numpy as np
import pytest

from selfie_pipeline.config import UserError
from selfie_pipeline.sources.pickles import read_arrays

CONTENT = {"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": [0, 1]}


class Command:
    """An object that runs a command when the standard unpickler reads it."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [3, 4])
def test_pickles_of_python_3_are_read(tmp_path, protocol):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(CONTENT, protocol=protocol))

    content = read_arrays(path)

    assert content["labels"] == [0, 1]
    assert np.array_equal(content["data"], CONTENT["data"])


def test_pickles_of_python_2_are_read(write_python2, tmp_path):
    path = tmp_path / "batch"
    write_python2(path, {b"data": CONTENT["data"], b"names": [b"cat"]})

    content = read_arrays(path)

    assert b"numpy.core.multiarray" in path.read_bytes()
    assert content["names"] == [b"cat"]
    assert np.array_equal(content["data"], CONTENT["data"])


def test_code_in_a_file_is_named_and_not_run(tmp_path):
    ran = tmp_path / "ran"
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({"data": Command(f"touch {ran}")}, protocol=2))

    with pytest.raises(UserError, match=rf"{path} refers to (posix|nt)\.system"):
        read_arrays(path)

    assert not ran.exists()
    with path.open("rb") as file:
        pickle.load(file)  # proves that the command would run
    assert ran.exists()


@pytest.mark.parametrize(
    "function", [eval, getattr, np.load, np.fromfile], ids=["eval", "getattr", "load", "fromfile"]
)
def test_no_other_function_is_allowed(tmp_path, function):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({"data": function}))

    with pytest.raises(UserError, match="refers to"):
        read_arrays(path)


@pytest.mark.parametrize("length", [0, 1, 10, 60, -1])
def test_a_cut_off_file_is_named(tmp_path, length):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(CONTENT, protocol=2)[:length])

    with pytest.raises(UserError, match=f"{path} "):
        read_arrays(path)


def test_a_file_that_is_not_a_pickle_is_named(tmp_path):
    path = tmp_path / "batch"
    path.write_bytes(b"<html>Not Found</html>")

    with pytest.raises(UserError, match=f"{path} is damaged"):
        read_arrays(path)


def test_a_pickle_of_another_type_is_refused(tmp_path):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps([1, 2]))

    with pytest.raises(UserError, match="holds a list"):
        read_arrays(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="absent can't be read: No such file"):
        read_arrays(tmp_path / "absent")
