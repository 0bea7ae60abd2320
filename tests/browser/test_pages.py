"""Kedro-Viz and the report, as a person meets them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Browser, kedro, served

Screenshot = Callable[[Any, str], None]
PREVIEWS = {
    "training_curves": "img.pipeline-metadata__plot-image",
    "results_table": "table",
    "results_markdown": "table",
    "report": "table",
    "encoder": "text=pretraining_images",
}


def close_tour(page: Any) -> None:
    page.locator(".feature-hints__close").click()


def click_node(page: Any, name: str) -> Any:
    """Click a node in the list beside the graph.

    Returns:
        The panel that opens.
    """
    page.locator(f'[data-test="node-list-tree-item--row--{name}"]').click()
    panel = page.locator(".pipeline-metadata")
    panel.get_by_role("heading", name=name).wait_for()
    return panel


def test_kedro_viz_shows_layers(viz: str, browser: Browser, screenshot: Screenshot) -> None:
    page = browser.open(viz)
    close_tour(page)

    page.locator(".pipeline-layer-name").first.wait_for()
    layers = page.locator(".pipeline-layer-name").all_text_contents()

    screenshot(page, "kedro-viz")
    assert layers == [
        *("intermediate", "feature", "primary", "models", "model_output", "reporting")
    ]


def test_kedro_viz_opens_and_closes_an_arm(viz: str, browser: Browser) -> None:
    page = browser.open(viz)
    close_tour(page)
    inside = page.locator(".pipeline-node", has_text="finetune_classifier")
    page.locator(".pipeline-node--modularPipeline").nth(1).wait_for()
    assert inside.count() == 0

    page.locator(".pipeline-node--modularPipeline", has_text="selfie").dblclick()
    inside.first.wait_for()

    assert inside.count() == 1


@pytest.mark.parametrize("name", PREVIEWS)
def test_kedro_viz_shows_a_preview_of_the_node_that_is_clicked(
    viz: str, browser: Browser, screenshot: Screenshot, name: str
) -> None:
    page = browser.open(viz)
    close_tour(page)

    click_node(page, name).locator(PREVIEWS[name]).first.wait_for()  # visible

    screenshot(page, f"kedro-viz-{name}")


def test_kedro_viz_as_a_static_site(
    project: Path, browser: Browser, screenshot: Screenshot
) -> None:
    kedro(project, "viz", "build", "--include-previews")

    with served(["-m", "http.server", "--bind", "127.0.0.1"], project / "build") as address:
        page = browser.open(address)
        close_tour(page)
        click_node(page, "confusion_matrix").locator("img").wait_for()
        screenshot(page, "kedro-viz-static")
    # Kedro-Viz 12.5 asks for its server's versions, api/metadata, which a static site has not.
    browser.errors[:] = [error for error in browser.errors if "metadata" not in error]


@pytest.mark.parametrize("width", [390, 1500])
def test_the_report_opens_from_the_disk(
    project: Path, browser: Browser, screenshot: Screenshot, width: int
) -> None:
    (report,) = project.glob("data/08_reporting/digits/report.html/*/report.html")

    page = browser.open(report.as_uri(), width)

    screenshot(page, f"report-{width}")
    assert re.search(r"did pretraining help", page.title())
    assert page.locator(".verdict").is_visible()
    assert page.locator("table").count() >= 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width
