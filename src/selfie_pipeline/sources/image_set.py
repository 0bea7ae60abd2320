"""Recognition of the format in which a folder holds images: files, Parquet or tar files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from selfie_pipeline.config import DataConfig
from selfie_pipeline.sources.base import Source
from selfie_pipeline.sources.decoding import has_image_extension
from selfie_pipeline.sources.folders import walk_folders
from selfie_pipeline.sources.image_folder import ImageFolder
from selfie_pipeline.sources.label_tables import LabelTable
from selfie_pipeline.sources.parquet import ParquetReader, has_images
from selfie_pipeline.sources.shards import Shards
from selfie_pipeline.sources.webdataset import WebDatasetReader, has_classes

logger = logging.getLogger(__name__)


def open_image_set(folder: Path, config: DataConfig, tables: Sequence[LabelTable]) -> Source:
    """Open a folder of images in whichever format it has.

    - Parquet files with a column of images are taken before anything else.
    - Then tar files are, if one begins with an image and its class, or if there are no image files.
    - Otherwise the folder is an `ImageFolder`.

    Args:
        folder: The folder; files in hidden folders do not count, those behind links do.
        config: Data parameters, which may name the columns of Parquet files.
        tables: Label tables.

    Raises:
        UserError: The files are absent or damaged, a folder can't be read, or the tables contradict
            them.
    """
    parquet, tar, has_image_files = _find_shards(folder)
    parquet = [path for path in parquet if has_images(path)]
    if parquet:
        _log_format(folder, "Parquet", len(parquet))
        return Shards(folder, parquet, ParquetReader(parquet, config), tables)
    if tar and (not has_image_files or any(map(has_classes, tar))):
        _log_format(folder, "tar", len(tar))
        return Shards(folder, tar, WebDatasetReader(), tables)
    return ImageFolder(folder, tables)


def _find_shards(folder: Path) -> tuple[list[Path], list[Path], bool]:
    """Find the Parquet and the tar files, sorted, and if there are image files."""
    parquet, tar = [], []
    has_image_files = False
    for walked in walk_folders(folder) if folder.is_dir() else ():
        for name in walked.files:
            if name.startswith("."):
                continue
            if name.lower().endswith(".parquet"):
                parquet.append(Path(walked.path, name))
            elif name.lower().endswith(".tar"):
                tar.append(Path(walked.path, name))
            has_image_files = has_image_files or has_image_extension(name)
    return sorted(parquet), sorted(tar), has_image_files


def _log_format(folder: Path, name: str, files: int) -> None:
    logger.info("%s: the images are in %d %s files; other files are left out", folder, files, name)
