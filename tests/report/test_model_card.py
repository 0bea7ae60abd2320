"""Tests of the model card."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, ImageOps

from selfie_pipeline.printable import is_printable
from selfie_pipeline.report.model_card import render_model_card
from selfie_pipeline.sources.decoding import decode_file

PROVENANCE = {
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
    """Return a result of the arm selfie."""
    return {
        "data": "no",  # false in YAML unless quoted
        "network": "ResNet-50 v2",
        "arm": "selfie",
        "labeled_frac": 0.05,
        "labels": 1200,
        "seed": seed,
        "accuracy": accuracy,
        "configuration": "same",
        "version": str(seed),
        "provenance": {"classifier": "a classifier"},
    } | changes


OWN = cell(1, 0.9)


def card(
    *others: dict[str, Any],
    loader: str | None = "network = …\n",
    pretrained_on: str | None = None,
    **provenance: Any,
) -> str:
    """Return the model card of `OWN`."""
    return render_model_card(
        OWN,
        [OWN, *others],
        PROVENANCE | provenance,
        licence="mit",
        loader=loader,
        tolerance=1e-4,
        pretrained_on=pretrained_on,
    )


def front_matter(page: str) -> dict[str, Any]:
    """Return the parsed front matter of a model card."""
    _, front, _ = page.split("---\n", 2)
    loaded: dict[str, Any] = yaml.safe_load(front)
    return loaded


def test_front_matter_has_the_fields_of_the_hub() -> None:
    front = front_matter(card())

    assert front["license"] == "mit"
    assert front["library_name"] == "timm"
    assert front["datasets"] == ["no"]
    (model,) = front["model-index"]
    (result,) = model["results"]
    assert result["dataset"] == {"name": "no", "type": "no", "split": "test"}
    assert result["metrics"] == [{"type": "accuracy", "value": 0.9}]


def test_other_images_of_the_pretraining_are_named() -> None:
    page = card(pretrained_on="imagenet32")

    assert front_matter(page)["datasets"] == ["no", "imagenet32"]
    assert (
        "5,000 images without labels of another data set or other splits (recipe imagenet32)"
        in page
    )
    assert "The training images (no, and of the pretraining those of the recipe imagenet32)" in page


def test_card_describes_data_preprocessing_recipe_and_limits() -> None:
    page = card()

    for part in (
        "5,000 images without labels",
        "1,200 labels",
        "(5 % of the training set)",
        "to 40 pixels",
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


def test_accuracies_are_listed_for_results_that_differ_only_in_the_seed() -> None:
    page = card(
        cell(0, 0.8),
        cell(2, 0.1, configuration="other"),
        cell(3, 0.2, arm="supervised"),
        cell(4, 0.3, labeled_frac=0.1),
    )

    rows = page.split("| seed | accuracy |\n|---|---|\n")[1].split("\n\n")[0]
    assert rows.splitlines() == ["| 0 | 80.00 % |", "| 1 (this model) | 90.00 % |"]


@pytest.mark.parametrize("others", [(), (cell(0, 0.8),)])
def test_one_seed_has_no_standard_deviation(others: tuple[dict[str, Any], ...]) -> None:
    page = card(*others)

    assert ("This is the result of one seed" in page) == (not others)
    assert ("Mean 85.00 %, standard deviation 7.07 over 2 seeds" in page) == bool(others)


def test_a_network_that_timm_lacks_has_only_the_onnx_file() -> None:
    page = card(loader=None)

    assert "timm has no network like this one" in page
    assert "load.py" not in page
    assert front_matter(page)["library_name"] == "onnx"


def test_names_of_classes_are_shown_as_they_are() -> None:
    page = card(classes=["<img src=x>", "*a* [b](c)"])

    assert r"2 classes: \<img src=x\>, \*a\* \[b\](c)." in page


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_the_code_prepares_an_image_as_predict_does(tmp_path: Path, mode: str) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = Image.fromarray(levels).convert(mode)
    if "A" in mode:
        picture.putalpha(Image.fromarray(levels.T.copy()))
    options = {"transparency": 7} if mode == "P" else {}
    picture.save(tmp_path / "photograph.png", **options)
    code = (
        card().split("```python\n")[1].split("```")[0].replace("photograph.jpg", "photograph.png")
    )
    (start, *lines) = [line for line in code.splitlines() if line.startswith("image = ")]
    names = {"Image": Image, "ImageOps": ImageOps}

    with contextlib.chdir(tmp_path):
        exec("\n".join([start, *lines]), names)

    expected, _ = decode_file(tmp_path / "photograph.png", 16)
    np.testing.assert_array_equal(np.asarray(names["image"]), expected)


def test_images_of_sixteen_bits_are_prepared_as_the_card_says(tmp_path: Path) -> None:
    levels = np.arange(0, 2**16, 2**8, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    (advice,) = re.findall(r"`(Image\.fromarray\(.*?\))`", card())

    with Image.open(tmp_path / "a.png") as image:
        prepared = eval(advice, {"Image": Image, "np": np, "image": image})

    expected, _ = decode_file(tmp_path / "a.png", 16)
    np.testing.assert_array_equal(np.asarray(prepared.convert("RGB")), expected)


def test_given_weights_are_named() -> None:
    patch = {"patch": PROVENANCE["configuration"]["patch"]}

    assert "began from given weights (digest `c0ffee`)" in card(
        configuration={**patch, "pretrain": {"weights": "c0ffee"}}
    )
    assert "given weights" not in card(configuration={**patch, "pretrain": {"steps": 1}})


def test_a_classifier_without_pretraining_has_no_encoder() -> None:
    patch = {"patch": PROVENANCE["configuration"]["patch"]}
    page = card(cell(0, 0.8), encoder=None, pretraining_images=None, configuration=patch)

    assert "ResNet-50 v2, no, trained from scratch\n" in page
    assert "It was trained from scratch on 1,200 labels\n(5 % of the training set).\n" in page
    assert "standard deviation 7.07 over 2 seeds of\nfinetuning.\n" in page
    assert "self-supervised-learning" not in front_matter(page)["tags"]
    for other in ("pretrain", "given weights", "encoder"):
        assert other not in page


def test_a_classifier_of_given_weights_names_them() -> None:
    patch = {"patch": PROVENANCE["configuration"]["patch"]}
    configuration = {**patch, "weights": "c0ffee"}
    page = card(encoder=None, pretraining_images=None, configuration=configuration)

    assert "ResNet-50 v2, no, started from given weights\n" in page
    assert "It was finetuned on 1,200 labels" in page
    assert "The finetuning began from given weights (digest `c0ffee`)" in page
    assert "encoder" not in page


def test_seeds_of_another_encoder_or_with_other_tuned_values_are_not_listed() -> None:
    other = {"classifier": "another", "encoder": "another"}
    tuned = {"classifier": "another", "tuned": {"finetune.peak_learning_rate": 0.1}}
    page = card(cell(2, 0.1, provenance=other), cell(3, 0.2, provenance=tuned))

    assert "the result of one seed" in page


def test_control_characters_are_escaped_and_the_code_keeps_its_lines() -> None:
    page = card(
        loader="first = 1\nsecond = 2\n",
        classes=["c\nat", "\x1b[2Jowl"],
        device="a\rprocessor",
        configuration={"patch": PROVENANCE["configuration"]["patch"], "name": "a\u2028b"},
    )

    assert all(is_printable(line) for line in page.split("\n"))
    assert r"2 classes: c\\nat, \\x1b\[2Jowl." in page
    assert r"a\rprocessor" in page
    assert "first = 1\nsecond = 2\n" in page
