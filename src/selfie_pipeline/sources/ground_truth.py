"""Reads the ground-truth files of ImageNet and similar data sets: the classes of flat folders."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from selfie_pipeline.config import UserError
from selfie_pipeline.sources.base import damaged_error
from selfie_pipeline.sources.listing import normalise_unicode

_DEVKIT = "ILSVRC2012_validation_ground_truth.txt"
_META = "meta.mat"


def load_ground_truth(folder: Path, split: str) -> dict[str, str] | None:
    """Find and read the file with the classes of the images in `folder`/`split`, which is flat.

    It is in that folder or in `folder`, and is one of

    - LOC_val_solution.csv, from Kaggle;
    - val_annotations.txt or val.txt: one line per image with its name and its class, separated by a
      tab or a space; columns after a second tab are ignored;
    - ILSVRC2012_validation_ground_truth.txt with meta.mat, from ImageNet's devkit, also in the
      devkit's folder ILSVRC2012_devkit_t12/data.

    For other splits, their names replace "val"; the devkit is for "val" only.

    Returns:
        Classes by image name, perhaps without extension; None if there is no such file.

    Raises:
        UserError: The file is damaged, or meta.mat is missing; the message names it.
    """
    readers: dict[str, Callable[[Path], dict[str, str]]] = {
        f"LOC_{split}_solution.csv": _read_csv,
        f"{split}_annotations.txt": _read_text,
        f"{split}.txt": _read_text,
    }
    if split == "val":
        readers[_DEVKIT] = _read_devkit
    for name, read in readers.items():
        for parent in (folder / split, folder, folder / "ILSVRC2012_devkit_t12/data"):
            path = parent / name
            if path.is_file():
                try:
                    return {
                        normalise_unicode(k): normalise_unicode(v) for k, v in read(path).items()
                    }
                except UserError:
                    raise
                except Exception as error:  # scipy and csv have errors of their own
                    raise damaged_error(path, error) from error
    return None


def _read_csv(path: Path) -> dict[str, str]:
    """Read lines such as `ILSVRC2012_val_00048981,n03995372 85 1 499 272 …` below a header."""
    with path.open(encoding="utf-8-sig", newline="") as file:  # perhaps with a byte-order mark
        return {
            line["ImageId"]: line["PredictionString"].split()[0] for line in csv.DictReader(file)
        }


def _read_text(path: Path) -> dict[str, str]:
    """Read lines of a name and a class."""
    classes = {}
    for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        columns = line.split("\t") if "\t" in line else line.rsplit(maxsplit=1)
        if len(columns) == 1:
            raise UserError(
                f"{path}: line {number} is not a name and a class; allowed: a class for each image "
                "of the split, or no file of this name"
            )
        classes[columns[0].strip()] = columns[1].strip()
    return classes


def _read_devkit(path: Path) -> dict[str, str]:
    """Read lines of a class's ILSVRC2012_ID, one per image, in the order of the image names."""
    from scipy.io import loadmat  # type: ignore[attr-defined]  # noqa: PLC0415  (rarely needed)

    meta = path.with_name(_META)
    if not meta.is_file():
        raise UserError(f"{path} needs the devkit's {_META} beside it; put it there")
    content = loadmat(meta, variable_names=["synsets"], squeeze_me=True)  # type: ignore[no-untyped-call]
    synsets = content["synsets"]
    wordnet_ids = {
        int(number): str(wordnet_id)
        for number, wordnet_id in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
    }
    lines = path.read_text("utf-8").split()
    return {
        f"ILSVRC2012_val_{number:08d}": wordnet_ids[int(line)]
        for number, line in enumerate(lines, start=1)
    }
