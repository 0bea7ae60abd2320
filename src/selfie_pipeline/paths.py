"""Resolvers for parts of the catalog's paths; `conf/` uses them by name."""

from __future__ import annotations


def percent(fraction: float | str) -> str:
    """Return a fraction in percent: "5" for 0.05."""
    return f"{100 * float(fraction):g}"


def images_folder(images: int | str | None) -> str:
    """Return the folder of results of pretraining on some of the images: "images_2500/".

    It is empty for null and "all": results of all images are stored one level higher.
    """
    return "" if images in {None, "all"} else f"images_{images}/"


def variant_folder(recipe: str, pretrained_on: str, images: int | str | None) -> str:
    """Return the folder of results of an encoder other than the recipe's, so that they don't mix.

    It is empty for the recipe's own encoder, pretrained on all images.
    """
    transfer = "" if pretrained_on == recipe else f"pretrained_on_{pretrained_on}/"
    return transfer + images_folder(images)
