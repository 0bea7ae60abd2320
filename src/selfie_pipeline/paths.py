"""Resolvers for parts of the catalog's paths; `conf/` uses them by name."""

from __future__ import annotations

import hashlib
from pathlib import Path


def percent(fraction: float | str) -> str:
    """Return a fraction in percent: "5" for 0.05."""
    return f"{100 * float(fraction):g}"


def pretraining_folder(weights: str | None, images: int | str | None) -> str:
    """Return the folder of results of pretraining from some weights, or on some of the images.

    It is "from_resnet50/images_2500/" for a file resnet50.safetensors and 2,500 images. Each part
    is empty for null, "none" and "all": those of the plain pretraining are stored one level higher.
    """
    start = "" if weights in {None, "none"} else f"from_{Path(str(weights)).stem}/"
    return start + ("" if images in {None, "all"} else f"images_{images}/")


def variant_folder(
    recipe: str, pretrained_on: str, weights: str | None, images: int | str | None
) -> str:
    """Return the folder of results of an encoder other than the recipe's, so that they don't mix.

    It is empty for the recipe's own encoder, pretrained from scratch on all images.
    """
    transfer = "" if pretrained_on == recipe else f"pretrained_on_{pretrained_on}/"
    return transfer + pretraining_folder(weights, images)


def short_hash(text: object) -> str:
    """Return eight hex digits that stand for a text in a path."""
    return hashlib.sha256(str(text).encode("utf-8", "surrogateescape")).hexdigest()[:8]
