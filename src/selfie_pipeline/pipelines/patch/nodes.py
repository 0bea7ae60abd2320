"""Nodes that cut the raw images into patch grids."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

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

    Raises:
        UserError: The raw files have changed since the samples were listed.
    """
    source = open_source(data, resolve_path(""))
    samples = samples.set_index("sample")
    per_side = patch.canvas_size // patch.patch_size
    fingerprint = hash_json(
        {
            "source": source.fingerprint(samples),
            "canvas_size": patch.canvas_size,
            "patch_size": patch.patch_size,
        }
    )

    def chunks(start: int) -> Iterator[tuple[NDArray[np.uint8], Mapping[int, str]]]:
        for images, unreadable in source.images(samples, patch.canvas_size, start):
            yield _cut(images, patch.patch_size), unreadable

    return PendingPatchGrids(
        fingerprint=fingerprint,
        samples=len(samples),
        grid=(per_side, per_side),
        patch_size=patch.patch_size,
        chunks=chunks,
        statistics_rows=(samples["split"] != "test").to_numpy(),
        check_unreadable=_UnreadableLimit(samples["place"].tolist(), data.max_unreadable),
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


@dataclass
class _UnreadableLimit:
    """Raises if too many image files are unreadable; other files do not count.

    Attributes:
        places: Of all samples.
        largest_share: Of the samples that may be unreadable.
        damaged: The unreadable image files so far, with their reasons.
    """

    places: list[str]
    largest_share: float
    damaged: dict[str, str] = field(default_factory=dict)

    def __call__(self, unreadable: Mapping[int, str]) -> None:
        """Count more unreadable samples, given with their reasons."""
        self.damaged |= {
            self.places[sample]: reason
            for sample, reason in unreadable.items()
            if reason not in {NOT_AN_IMAGE, EMPTY} or has_image_extension(self.places[sample])
        }
        allowed = int(self.largest_share * len(self.places))
        if len(self.damaged) > allowed:
            place, reason = next(iter(self.damaged.items()))
            raise UserError(
                f"{len(self.damaged)} or more of {len(self.places)} files can't be used, such as "
                f"{place} ({reason}); data.max_unreadable = {self.largest_share:g} allows "
                f"{allowed}: fix or remove them, or allow more"
            )


def list_usable_samples(
    samples: pd.DataFrame, patch_grids: PatchGrids, duplicates: pd.DataFrame, data: DataConfig
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Drop the samples without an image and, if asked for, those that are also in the test split.

    Returns:
        The table of usable samples, and the files of the others with the reasons.

    Raises:
        UserError: The patch grids are not of these samples, or a class has no training image left,
            or the test split no image.
    """
    if len(samples) != len(patch_grids):
        raise UserError(
            f"patch_grids has {len(patch_grids)} images of {len(samples)} samples; run `kedro run "
            "--pipeline=patch`"
        )
    reasons = samples["sample"].map(patch_grids.unreadable)
    unreadable = samples[["sample", "split", "class_name", "place"]].assign(reason=reasons)
    unreadable = unreadable[reasons.notna()]
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
