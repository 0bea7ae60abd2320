"""Tests of reading ground-truth files."""

import numpy as np
import pytest
import scipy.io

from selfie_pipeline.config import UserError
from selfie_pipeline.sources.ground_truth import load_ground_truth

IDS = {"n01440764": 2, "n02102040": 490, "n03000684": 1}


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a file of the data set, with its parent folders."""
    (tmp_path / "val").mkdir()

    def write_file(place, content):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def write_meta(folder):
    """Write meta.mat as in the devkit: the classes of ILSVRC, followed by groups of classes."""
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number, name, "a word", 0) for name, number in IDS.items()]
    synsets = np.array([*rows, (1001, "n00001740", "entity", 3)], dtype=fields)
    scipy.io.savemat(folder / "meta.mat", {"synsets": synsets[:, None]})


KAGGLE = """ImageId,PredictionString
ILSVRC2012_val_00048981,n03000684 85 1 499 272
ILSVRC2012_val_00037956,n02102040 131 0 499 254 n02102040 1 1 20 30
"""
TINY = "val_0.JPEG\tn03000684\t0\t32\t44\t62\nval 1.JPEG\tn02102040\t52\t55\t57\t59\n"


@pytest.mark.parametrize(
    ("place", "content", "classes"),
    [
        (
            "LOC_val_solution.csv",
            KAGGLE,
            {"ILSVRC2012_val_00048981": "n03000684", "ILSVRC2012_val_00037956": "n02102040"},
        ),
        (
            "val/val_annotations.txt",
            TINY,
            {"val_0.JPEG": "n03000684", "val 1.JPEG": "n02102040"},
        ),
        ("val.txt", "a b.jpg cat\n\nc.jpg dog\n", {"a b.jpg": "cat", "c.jpg": "dog"}),
        ("val/val.txt", "a.jpg\tguinea pig\r\n", {"a.jpg": "guinea pig"}),
        ("val.txt", "\ufeffa.jpg cat\n", {"a.jpg": "cat"}),
        ("LOC_val_solution.csv", f"\ufeff{KAGGLE.splitlines()[0]}\na,n01 1\n", {"a": "n01"}),
    ],
)
def test_a_ground_truth_is_found_in_the_split_or_its_parent(
    tmp_path, write, place, content, classes
):
    write(place, content)

    assert load_ground_truth(tmp_path, "val") == classes
    assert load_ground_truth(tmp_path, "test") is None


@pytest.mark.parametrize("folder", ["val", ".", "ILSVRC2012_devkit_t12/data"])
def test_the_devkit_is_read_with_its_table_of_classes(tmp_path, write, folder):
    path = write(f"{folder}/ILSVRC2012_validation_ground_truth.txt", "490\n1\n2\n1\n")
    write_meta(path.parent)

    assert load_ground_truth(tmp_path, "val") == {
        "ILSVRC2012_val_00000001": "n02102040",
        "ILSVRC2012_val_00000002": "n03000684",
        "ILSVRC2012_val_00000003": "n01440764",
        "ILSVRC2012_val_00000004": "n03000684",
    }


def test_the_devkit_without_its_table_of_classes_is_named(tmp_path, write):
    write("ILSVRC2012_validation_ground_truth.txt", "490\n")

    with pytest.raises(UserError, match=r"ground_truth\.txt needs the devkit's meta\.mat"):
        load_ground_truth(tmp_path, "val")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("LOC_val_solution.csv", "ImageId,PredictionString\n" + "a" * 200_000 + ",n01 1\n"),
        ("LOC_val_solution.csv", "ImageId\nILSVRC2012_val_00048981\n"),
        ("LOC_val_solution.csv", "ImageId,PredictionString\nILSVRC2012_val_00048981,\n"),
        ("LOC_val_solution.csv", "ImageId,PredictionString\nILSVRC2012_val_00048981\n"),
        ("val.txt", b"\xff\xfe"),
        ("ILSVRC2012_validation_ground_truth.txt", "cat\n"),
        ("ILSVRC2012_validation_ground_truth.txt", "491\n"),
    ],
)
def test_a_damaged_ground_truth_is_named(tmp_path, write, name, content):
    write(name, content)
    write_meta(tmp_path)

    with pytest.raises(UserError, match=f"{name} is damaged") as caught:
        load_ground_truth(tmp_path, "val")
    assert "\n" not in str(caught.value)


def test_a_list_of_files_is_no_ground_truth(tmp_path, write):
    write("val.txt", "a.jpg\nb.jpg\n")

    with pytest.raises(UserError, match=r"val\.txt: line 1 is not a name and a class; allowed: "):
        load_ground_truth(tmp_path, "val")


@pytest.mark.parametrize("content", [b"MATLAB 5.0 MAT-file, cut off", b"", b"\1" * 4, b"\0" * 99])
def test_a_damaged_table_of_classes_is_refused(tmp_path, write, content):
    write("ILSVRC2012_validation_ground_truth.txt", "1\n")
    write("meta.mat", content)

    with pytest.raises(UserError, match="is damaged"):
        load_ground_truth(tmp_path, "val")


def test_without_a_file_there_is_no_ground_truth(tmp_path):
    assert load_ground_truth(tmp_path, "val") is None
