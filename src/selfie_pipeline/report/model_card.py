"""Model card of exported weights: Markdown with front matter for the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from markupsafe import Markup

from selfie_pipeline.evaluation.selection import Cell, select_cells
from selfie_pipeline.report.templates import render_template

_LISTED_CLASSES = 10


def render_model_card(
    cell: Cell,
    cells: Sequence[Cell],
    provenance: Mapping[str, Any],
    *,
    licence: str,
    loader: str | None,
    tolerance: float,
    pretrained_on: str | None = None,
) -> str:
    """Render the model card as Markdown.

    Args:
        cell: The classifier's result.
        cells: All results; those that differ only in the seed are listed.
        provenance: The classifier's provenance.
        licence: Licence of the weights, in the Hub's notation.
        loader: Code that loads the weights into timm; None if timm has no such network.
        tolerance: Maximum difference between the probabilities of the ONNX file and of PyTorch.
        pretrained_on: The recipe whose images the encoder was pretrained on, if they are others.
    """
    comparable = select_cells(cells, {cell["configuration"]}, [cell]).used
    same = ("arm", "labeled_frac", "labels", "network")
    accuracies = {
        other["seed"]: float(other["accuracy"])
        for other in comparable
        if all(other[key] == cell[key] for key in same)
    }
    accuracies[cell["seed"]] = float(cell["accuracy"])
    classes, configuration = provenance["classes"], provenance["configuration"]
    patch = configuration["patch"]
    listed = ", ".join(classes[:_LISTED_CLASSES])
    if len(classes) > _LISTED_CLASSES:
        listed += f" and {len(classes) - _LISTED_CLASSES:,} more"
    return render_template(
        "model_card.md.jinja",
        name=f"{cell['arm']}-{cell['data']}",
        network=cell["network"],
        data=cell["data"],
        accuracy=cell["accuracy"],
        percent=f"{100 * cell['labeled_frac']:g}",
        seeds=[(seed, accuracies[seed], seed == cell["seed"]) for seed in sorted(accuracies)],
        mean=mean(accuracies.values()),
        std=stdev(accuracies.values()) if len(accuracies) > 1 else None,
        digest=cell["provenance"]["classifier"],
        provenance=provenance,
        selfie=provenance["encoder"] is not None,
        start=configuration.get("pretrain", configuration).get("weights"),
        classes=classes,
        listed_classes=listed,
        image_size=patch["image_size"],
        canvas_size=patch["canvas_size"],
        licence=licence,
        loader=loader and Markup(loader),  # noqa: S704  # code, whose strings are escaped
        tolerance=f"{tolerance:g}",
        pretrained_on=pretrained_on,
    )
