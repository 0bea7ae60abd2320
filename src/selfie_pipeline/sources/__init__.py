"""Data sources: readers of raw data sets, which provide images and a table of samples."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from selfie_pipeline.config import DataConfig, UserError
from selfie_pipeline.sources.base import Source
from selfie_pipeline.sources.cifar10 import open_cifar10
from selfie_pipeline.sources.image_set import open_image_set
from selfie_pipeline.sources.imagenet32 import open_imagenet32
from selfie_pipeline.sources.label_tables import read_label_tables
from selfie_pipeline.sources.samples import check_samples, count_samples

__all__ = ["Source", "check_samples", "count_samples", "open_source"]

_FOLDER_SOURCES: dict[str, Callable[[Path], Source]] = {
    "cifar10": open_cifar10,
    "imagenet32": open_imagenet32,
}


def open_source(config: DataConfig, root: Path) -> Source:
    """Open the data set that the parameters name.

    Its paths are relative to `root`; `~` at their beginning is the home folder.

    Raises:
        UserError: The source needs a folder and `data.folder` is null, or its files or label tables
            are damaged, or missing and can't be downloaded.
    """
    if config.source == "digits":
        from selfie_pipeline.sources.digits import (  # noqa: PLC0415  # scikit-learn is slow
            Digits,
        )

        return Digits()
    if config.folder is None:
        raise UserError(
            f"data.folder = null is not allowed with data.source = {config.source!r}; "
            "allowed: the folder of its raw files, relative to the project"
        )
    folder = root / os.path.expanduser(config.folder)
    if config.source == "image_folder":
        return open_image_set(folder, config, read_label_tables(config, root))
    return _FOLDER_SOURCES[config.source](folder)
