"""Nodes that cut the raw images into patch grids."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from selfie_pipeline.config import DataConfig, PatchConfig, UserError
from selfie_pipeline.datasets.patch_grid_shards import PendingPatchGrids
from selfie_pipeline.datasets.patch_grids import PatchGrids
from selfie_pipeline.pipelines.patch.data_check import find_leaked
from selfie_pipeline.project import resolve_path
from selfie_pipeline.provenance import DATA_PARAMETERS, hash_json
from selfie_pipeline.sources import open_source
from selfie_pipeline.sources.decoding import EMPTY, NOT_AN_IMAGE, has_image_extension
from selfie_pipeline.sources.samples import SAMPLE_COLUMNS

_LOG = logging.getLogger(__name__)


def cut_patches(samples: pd.DataFrame, data: DataConfig, patch: PatchConfig) -> PendingPatchGrids:
    """Prepare the patch grids; the images are read and cut while the catalog saves them.

    The reading ends with a UserError as soon as too many image files of this run are unreadable.

    Raises:
        UserError: The raw files have changed since the samples were listed.
    """
    source = open_source(data, resolve_path(""))
    samples = samples.set_index("sample")
    places = samples["place"].tolist()
    per_side = patch.canvas_size // patch.patch_size
    fingerprint = hash_json(
        {
            "source": source.fingerprint(samples),
            "canvas_size": patch.canvas_size,
            "patch_size": patch.patch_size,
        }
    )

    def chunks(start: int) -> Iterator[tuple[NDArray[np.uint8], Mapping[int, str]]]:
        damaged: dict[str, str] = {}  # from `start` on; `list_usable_samples` counts all
        for images, unreadable in source.images(samples, patch.canvas_size, start):
            damaged |= _find_damaged((places[row], reason) for row, reason in unreadable.items())
            _check_damaged(damaged, len(places), data.max_unreadable)
            yield _cut(images, patch.patch_size), unreadable

    return PendingPatchGrids(
        fingerprint=fingerprint,
        samples=len(samples),
        grid=(per_side, per_side),
        patch_size=patch.patch_size,
        chunks=chunks,
        statistics_rows=(samples["split"] != "test").to_numpy(),
    )


def _cut(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Cut images, (n, H, W, C), into patches, on one thread while others decode.

    Each row of a patch is moved as one item, which is several times faster than pixel by pixel.
    """
    n, height, width, c = images.shape
    rows, columns = height // size, width // size
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))  # (n, C, H, W)
    items = planes.view(f"V{size}").reshape(n, c, rows, size, columns)  # (n, C, R, P, S)
    items = np.ascontiguousarray(items.transpose(0, 2, 4, 1, 3))  # (n, R, S, C, P)
    return items.view(np.uint8).reshape(n, rows * columns, c, size, size)  # (n, N, C, P, P)


def _find_damaged(unreadable: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the image files among unreadable ones, places and reasons; other files do not count.

    Examples of others are notes, and empty files such as `.gitkeep`.
    """
    return {
        place: reason
        for place, reason in unreadable
        if reason not in {NOT_AN_IMAGE, EMPTY} or has_image_extension(place)
    }


def _check_damaged(damaged: Mapping[str, str], files: int, largest_share: float) -> None:
    """Raise UserError if more than this share of all files are damaged."""
    allowed = int(largest_share * files)
    if len(damaged) > allowed:
        place, reason = next(iter(damaged.items()))
        raise UserError(
            f"{len(damaged)} or more of {files} files can't be used, such as {place} ({reason}); "
            f"data.max_unreadable = {largest_share:g} allows {allowed}: fix or remove them, or "
            "allow more"
        )


def list_usable_samples(
    samples: pd.DataFrame, patch_grids: PatchGrids, duplicates: pd.DataFrame, data: DataConfig
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Drop the samples without an image and, if asked for, those that are also in the test split.

    Returns:
        The table of usable samples, and the files of the others with the reasons.

    Raises:
        UserError: The patch grids are not of these samples, too many image files are unreadable, a
            class has no training image left, or the test split no image.
    """
    if len(samples) != len(patch_grids):
        raise UserError(
            f"patch_grids has {len(patch_grids)} images of {len(samples)} samples; run `kedro run "
            "--pipeline=patch`"
        )
    reasons = samples["sample"].map(patch_grids.unreadable)
    unreadable = samples[["sample", "split", "class_name", "place"]].assign(reason=reasons)
    unreadable = unreadable[reasons.notna()]
    damaged = _find_damaged(zip(unreadable["place"], unreadable["reason"], strict=True))
    _check_damaged(damaged, len(samples), data.max_unreadable)
    usable = samples.loc[reasons.isna(), ["sample", *SAMPLE_COLUMNS]]
    if len(unreadable):
        _LOG.warning(
            "%d of %d files can't be used and are left out; unreadable_files lists them",
            len(unreadable),
            len(samples),
        )
    _check_classes(samples, usable, "can be read; fix its files")
    if "test" in set(unreadable["split"]) - set(usable["split"]):
        raise UserError(
            "no image of the test split can be read, so the accuracy can't be measured; "
            "unreadable_files lists the reasons: fix the files, or add others"
        )
    if data.drop_leaked:
        usable = usable[~usable["sample"].isin(find_leaked(duplicates))]
        _check_classes(samples, usable, "is outside the test split; set data.drop_leaked=false")
    usable = usable.reset_index(drop=True)
    own = data.model_dump(mode="json", include={"drop_leaked", "max_unreadable"})
    usable.attrs[DATA_PARAMETERS] = samples.attrs.get(DATA_PARAMETERS, {}) | own
    return usable, unreadable


def _check_classes(samples: pd.DataFrame, usable: pd.DataFrame, reason: str) -> None:
    """Raise if a class has no training image left."""
    all_classes, left = (
        set(table.loc[table["split"] == "train", "class_name"]) for table in (samples, usable)
    )
    if lost := all_classes - left:
        raise UserError(
            f"no training image of the class {min(lost)!r} {reason}, or take the class out of the "
            "data set"
        )
