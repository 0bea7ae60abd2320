"""Parts of the catalog's paths: what the resolvers in `conf/` stand for."""

from __future__ import annotations


def percent(fraction: float | str) -> str:
    """A fraction as the paths have it: 0.05 is "5"."""
    return f"{100 * float(fraction):g}"


def images_folder(images: int | str | None) -> str:
    """Where things lie that follow from pretraining on a part of the images: "images_2500/".

    Nothing for null or "all": what follows from all images lies where one looks first.
    """
    return "" if images in {None, "all"} else f"images_{images}/"


def variant_folder(recipe: str, pretrained_on: str, images: int | str | None) -> str:
    """Where the results of another encoder than the recipe's own lie.

    So they neither replace the results of the recipe's own, nor mix with them.
    """
    transfer = "" if pretrained_on == recipe else f"pretrained_on_{pretrained_on}/"
    return transfer + images_folder(images)
