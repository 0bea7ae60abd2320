from __future__ import annotations

from typing import Any

import pytest
import yaml

from selfie_pipeline.report.model_card import model_card

MADE = {
    "classes": ["cat", "null"],
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.2, 0.25],
    "configuration": {"patch": {"canvas_size": 40, "image_size": 32}, "finetune": {"steps": 4}},
    "data": "a fingerprint",
    "seed": 1,
    "labels": 1200,
    "pretraining_images": 5000,
    "encoder": "an encoder",
    "device": "a processor",
    "precision": "32-true",
    "commit": "a commit",
    "versions": {"torch": "2.15.0"},
}


def cell(seed: int, accuracy: float, **changes: Any) -> dict[str, Any]:
    return {
        "data": "no",  # YAML's false, if not quoted
        "network": "ResNet-50 v2",
        "arm": "selfie",
        "labeled_frac": 0.05,
        "labels": 1200,
        "seed": seed,
        "accuracy": accuracy,
        "configuration": "alike",
        "version": str(seed),
        "provenance": {"classifier": "a classifier"},
    } | changes


OWN = cell(1, 0.9)


def card(*others: dict[str, Any], loader: str | None = "network = …\n") -> str:
    return model_card(OWN, [OWN, *others], MADE, licence="mit", loader=loader, tolerance=1e-4)


def front_matter(page: str) -> dict[str, Any]:
    _, front, _ = page.split("---\n", 2)
    loaded: dict[str, Any] = yaml.safe_load(front)
    return loaded


def test_the_hub_can_read_it() -> None:
    front = front_matter(card())

    assert front["license"] == "mit"
    assert front["library_name"] == "timm"
    assert front["datasets"] == ["no"]
    (model,) = front["model-index"]
    (result,) = model["results"]
    assert result["dataset"] == {"name": "no", "type": "no", "split": "test"}
    assert result["metrics"] == [{"type": "accuracy", "value": 0.9}]


def test_it_says_what_others_need_to_know() -> None:
    page = card()

    for part in (
        "5,000 images without labels",
        "1,200 labels",
        "(5 % of the training set)",
        "resized to 40 pixels",
        "mean [0.5, 0.4, 0.3]",
        '["cat", "null"]',
        "network = …",
        '"steps": 4',
        "`a fingerprint`",
        "| torch | 2.15.0 |",
        "`mit`",
        "## Intended use and limits",
    ):
        assert part in page


def test_accuracy_is_given_seed_by_seed_of_what_is_alike() -> None:
    page = card(
        cell(0, 0.8),
        cell(2, 0.1, configuration="other"),
        cell(3, 0.2, arm="supervised"),
        cell(4, 0.3, labeled_frac=0.1),
    )

    rows = page.split("| seed | accuracy |\n|---|---|\n")[1].split("\n\n")[0]
    assert rows.splitlines() == ["| 0 | 80.00 % |", "| 1 (this one) | 90.00 % |"]


@pytest.mark.parametrize("others", [(), (cell(0, 0.8),)])
def test_one_seed_has_no_deviation(others: tuple[dict[str, Any], ...]) -> None:
    page = card(*others)

    assert ("One seed says little" in page) == (not others)
    assert ("Mean 85.00 %, standard deviation 7.07 over 2 seeds" in page) == bool(others)


def test_of_a_network_that_timm_lacks_it_says_so() -> None:
    page = card(loader=None)

    assert "timm has no network like this one" in page
    assert "load.py" not in page
    assert front_matter(page)["library_name"] == "onnx"
