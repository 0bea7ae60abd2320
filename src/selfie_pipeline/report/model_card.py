"""The page that goes with exported weights, with front matter as the Hugging Face Hub reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from statistics import mean, stdev
from typing import Any

import jinja2

from selfie_pipeline.evaluation.tables import Cell, select

_SHOWN = 10


def model_card(
    cell: Cell,
    cells: Sequence[Cell],
    made: Mapping[str, Any],
    *,
    licence: str,
    loader: str | None,
    tolerance: float,
) -> str:
    """Write the page.

    Args:
        cell: The classifier's own result.
        cells: All results, of which those count that differ from it in the seed alone.
        made: The classifier's provenance.
        licence: Of the weights, as the Hub calls it.
        loader: The code that loads the weights into timm; None where timm has no such network.
        tolerance: Largest difference of the ONNX file's logits.

    Returns:
        Markdown.
    """
    alike = select(cells, {cell["configuration"]}).used
    same = ("arm", "labeled_frac", "labels", "network")
    accuracies = {
        other["seed"]: float(other["accuracy"])
        for other in alike
        if all(other[key] == cell[key] for key in same)
    }
    accuracies[cell["seed"]] = float(cell["accuracy"])
    patch = made["configuration"]["patch"]
    environment = jinja2.Environment(  # noqa: S701  # Markdown, not HTML
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files(__package__).joinpath("model_card.md.jinja").read_text("utf-8")
    return environment.from_string(source).render(
        name=f"selfie-{cell['data']}",
        network=cell["network"],
        data=cell["data"],
        accuracy=cell["accuracy"],
        percent=f"{100 * cell['labeled_frac']:g}",
        seeds=[(seed, accuracies[seed], seed == cell["seed"]) for seed in sorted(accuracies)],
        mean=mean(accuracies.values()),
        std=stdev(accuracies.values()) if len(accuracies) > 1 else None,
        digest=cell["provenance"]["classifier"],
        made=made,
        classes=made["classes"],
        image_size=patch["image_size"],
        canvas_size=patch["canvas_size"],
        licence=licence,
        loader=loader,
        hybrid=loader is None,
        tolerance=f"{tolerance:g}",
        shown=_shown,
    )


def _shown(classes: Sequence[str]) -> str:
    more = f" and {len(classes) - _SHOWN:,} more" if len(classes) > _SHOWN else ""
    return ", ".join(classes[:_SHOWN]) + more
