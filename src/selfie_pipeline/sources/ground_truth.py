"""Which class an image of a flat folder has: the files that ImageNet and its kin come with."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from selfie_pipeline.config import UserError

_DEVKIT = "ILSVRC2012_validation_ground_truth.txt"
_META = "meta.mat"


def find_ground_truth(folder: Path, split: str) -> dict[str, str] | None:
    """Find and read the file that says the classes of `folder`/`split`.

    It lies in that folder or beside it, and is one of

    - LOC_val_solution.csv, as Kaggle has it;
    - val_annotations.txt or val.txt: a line an image, its name and its class, separated by a tab or
      a space; more columns after a second tab are not read;
    - ILSVRC2012_validation_ground_truth.txt with meta.mat, from ImageNet's devkit, which may be in
      the devkit's own folder ILSVRC2012_devkit_t12/data,

    and so for other splits than "val", but for the devkit's.

    Args:
        folder: Of the data set.
        split: Name of the folder of images.

    Returns:
        Classes by the images' names, which may lack their extension; None if there is no such file.

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
        for place in (folder / split, folder, folder / "ILSVRC2012_devkit_t12/data"):
            if (place / name).is_file():
                try:
                    return read(place / name)
                except (OSError, ValueError, LookupError, AttributeError) as error:
                    reason = " ".join(str(error).split())
                    raise UserError(
                        f"{place / name} is damaged ({reason}); put a whole copy in its place"
                    ) from error
    return None


def _read_csv(path: Path) -> dict[str, str]:
    """Lines `ILSVRC2012_val_00048981,n03995372 85 1 499 272 …` under a heading."""
    with path.open(encoding="utf-8", newline="") as file:
        return {
            line["ImageId"]: line["PredictionString"].split()[0] for line in csv.DictReader(file)
        }


def _read_text(path: Path) -> dict[str, str]:
    classes = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        columns = line.split("\t") if "\t" in line else line.rsplit(maxsplit=1)
        if len(columns) == 1:
            raise ValueError(f"line {number} is not a name and a class")
        classes[columns[0].strip()] = columns[1].strip()
    return classes


def _read_devkit(path: Path) -> dict[str, str]:
    """A line an image, in the order of their names: the class's ILSVRC2012_ID."""
    from scipy.io import loadmat  # type: ignore[attr-defined]  # noqa: PLC0415  (for few)

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
