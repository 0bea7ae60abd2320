"""Node that checks the stored images before hours of training are spent on them."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from selfie_pipeline.config import DataConfig
from selfie_pipeline.datasets.patch_grids import PatchGrids
from selfie_pipeline.duplicates.hashing import ImageHashes, hash_images
from selfie_pipeline.duplicates.search import find_duplicates, find_originals
from selfie_pipeline.progress import track
from selfie_pipeline.report.duplicates import describe_check, draw_duplicates, has_leaked
from selfie_pipeline.sources.base import CHUNK_BYTES
from selfie_pipeline.sources.decoding import map_ordered
from selfie_pipeline.sources.samples import SPLITS
from selfie_pipeline.threads import torch_threads

_LOG = logging.getLogger(__name__)
_COMPARED_SPLITS = (("train", "test"), ("unlabeled", "test"), ("train", "unlabeled"))
_EXAMPLES = 8


def check_data(
    samples: pd.DataFrame, patch_grids: PatchGrids, data: DataConfig
) -> tuple[pd.DataFrame, dict[str, Any], Figure]:
    """Count the images of each split, and find those that are in two splits.

    Returns:
        The pairs of images, one row a pair: for first and second the sample, split, class_name and
        place; then kind (exact or near), distance and similarity. What was found, in numbers, with
        some of the pairs. And the picture of these pairs.
    """
    readable = samples[~samples["sample"].isin(patch_grids.unreadable)]
    hashes = _hash_images(patch_grids)
    originals = find_originals(hashes.codes, patch_grids.read_canvases)
    present = set(samples["split"])
    rows = {
        split: readable.loc[readable["split"] == split, "sample"].to_numpy() for split in SPLITS
    }
    found = pd.concat(
        [
            find_duplicates(hashes, originals, rows[first], rows[second], patch_grids.read_canvases)
            for first, second in _COMPARED_SPLITS
        ],
        ignore_index=True,
    )
    pairs = _describe_pairs(found, samples)
    check: dict[str, Any] = {
        "splits": [
            _count_split(split, samples, readable, originals[rows[split]])
            for split in SPLITS
            if split in present
        ],
        "overlaps": [
            _count_overlap(*splits, pairs)
            for splits in _COMPARED_SPLITS
            if present.issuperset(splits)
        ],
        "dropped": len(find_leaked(pairs)) if data.drop_leaked else 0,
        "examples": _pick_examples(pairs).to_dict("records"),
    }
    level = logging.WARNING if has_leaked(check) else logging.INFO
    _LOG.log(level, "data: %s", describe_check(check))
    return pairs, check, draw_duplicates(check["examples"], patch_grids.read_canvases)


def find_leaked(pairs: pd.DataFrame) -> NDArray[np.int64]:
    """Return the samples outside the test split that are also in it."""
    leaked: NDArray[np.int64] = pairs.loc[pairs["second_split"] == "test", "first_sample"].unique()
    return leaked


def _hash_images(patch_grids: PatchGrids) -> ImageHashes:
    """Hash all stored images on all cores, one after another as they lie on the disk."""
    image_bytes = int(np.prod(patch_grids.shape[1:]))
    step = max(1, CHUNK_BYTES // image_bytes)
    blocks = [
        np.arange(start, min(start + step, len(patch_grids)))
        for start in range(0, len(patch_grids), step)
    ]
    hashed = map_ordered(lambda block: hash_images(patch_grids.read_canvases(block)), blocks)
    progress = track("Comparing images", len(blocks), hashed, unit=" blocks")
    with torch_threads(1):  # threads that share a block wait for each other
        parts = list(progress)
    return ImageHashes(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _describe_pairs(found: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """Return one row per pair, with the split, class and place of both images."""
    about = samples.set_index("sample")[["split", "class_name", "place"]]
    sides = [
        about.loc[found[side]].reset_index().add_prefix(f"{side}_") for side in ("first", "second")
    ]
    return pd.concat([*sides, found[["kind", "distance", "similarity"]]], axis=1)


def _count_split(
    split: str, samples: pd.DataFrame, readable: pd.DataFrame, originals: NDArray[np.int64]
) -> dict[str, Any]:
    classes = readable.loc[(readable["split"] == split) & (readable["label"] >= 0), "label"]
    sizes = classes.value_counts()
    return {
        "split": split,
        "images": len(originals),
        "unreadable": int((samples["split"] == split).sum()) - len(originals),
        "classes": len(sizes),
        "smallest_class": int(sizes.min()) if len(sizes) else 0,
        "largest_class": int(sizes.max()) if len(sizes) else 0,
        "copies": len(originals) - len(np.unique(originals)),
    }


def _count_overlap(first: str, second: str, pairs: pd.DataFrame) -> dict[str, Any]:
    """Count the images of two splits that are in both."""
    found = pairs[(pairs["first_split"] == first) & (pairs["second_split"] == second)]
    exact = found.loc[found["kind"] == "exact", "first_sample"].nunique()
    labeled = (found["first_class_name"] != "") & (found["second_class_name"] != "")
    return {
        "first": first,
        "second": second,
        "pairs": len(found),
        "exact": exact,
        "near": found["first_sample"].nunique() - exact,
        "second_images": found["second_sample"].nunique(),
        "other_class": int(
            (labeled & (found["first_class_name"] != found["second_class_name"])).sum()
        ),
    }


def _pick_examples(pairs: pd.DataFrame) -> pd.DataFrame:
    """Pick pairs from the most to the least similar, with the test split if there are such."""
    leaks = pairs[pairs["second_split"] == "test"]
    found = leaks if len(leaks) else pairs
    found = found.sort_values("similarity", ascending=False, kind="stable")
    found = found.drop_duplicates("first_sample").drop_duplicates("second_sample")
    places = np.linspace(0, len(found) - 1, min(len(found), _EXAMPLES)).round().astype(np.int64)
    return found.iloc[places]
