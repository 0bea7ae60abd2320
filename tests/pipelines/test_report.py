"""Tests of the report's nodes that need no training."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from selfie_pipeline.config import UserError
from selfie_pipeline.pipelines.report.nodes import (
    check_comparable,
    check_predictions,
    list_class_names,
    solve_puzzles,
    tabulate_results,
)
from selfie_pipeline.weights import Weights


def cell(arm: str, tuned: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return a result with changes to its configuration."""
    configuration = {"model": {"width": 8}, "finetune": {"steps": 4, "peak_learning_rate": 0.1}}
    provenance = {"configuration": configuration | changes, "data": "the data"}
    if tuned is not None:
        provenance["tuned"] = tuned
    return {
        "data": "digits",
        "network": "ResNet",
        "arm": arm,
        "labeled_frac": 0.05,
        "labels": 63,
        "seed": 0,
        "accuracy": 0.5,
        "configuration": arm,
        "version": "1",
        "provenance": provenance,
    }


RATE = {"finetune.peak_learning_rate": 0.3}
OTHER_RATE = {"finetune": {"steps": 4, "peak_learning_rate": 0.3}}


def test_arms_may_differ_in_the_pretraining() -> None:
    check_comparable(
        cell("selfie", pretrain={"steps": 6}, pretrained_on="imagenet32"), cell("supervised")
    )


def test_arms_may_differ_in_values_tuned_for_both() -> None:
    check_comparable(
        cell("selfie", RATE, **OTHER_RATE),
        cell("supervised", {"finetune.peak_learning_rate": 0.1}),
    )


@pytest.mark.parametrize(
    ("selfie", "supervised"),
    [(RATE, None), (None, RATE), (RATE, {}), (None, None), (RATE, {"finetune.steps": 4})],
)
def test_a_parameter_tuned_for_only_one_arm_is_a_difference(
    selfie: dict[str, Any] | None, supervised: dict[str, Any] | None
) -> None:
    with pytest.raises(UserError, match=r"different finetune.peak_learning_rate \(0.3 and 0.1\)"):
        check_comparable(cell("selfie", selfie, **OTHER_RATE), cell("supervised", supervised))


def test_tuning_one_parameter_does_not_allow_others_to_differ() -> None:
    with pytest.raises(UserError, match=r"different finetune.steps \(9 and 4\);"):
        check_comparable(
            cell("selfie", RATE, finetune={"steps": 9, "peak_learning_rate": 0.3}),
            cell("supervised", RATE),
        )


def test_arms_of_different_data_are_not_comparable() -> None:
    other = cell("supervised")
    other["provenance"]["data"] = "other data"
    with pytest.raises(UserError, match="different the data"):
        check_comparable(cell("selfie"), other)


class Grids(list[int]):
    """Patch grids, as far as a fingerprint of the data needs them."""

    fingerprint = "other data"
    unreadable: dict[int, str] = {}  # noqa: RUF012


def test_a_result_of_other_images_is_refused(make_config: Any) -> None:
    """Its predictions have the numbers of samples and classes that are others now."""
    config = make_config()
    parts = (config.patch, config.augmentation, config.compute)

    with pytest.raises(UserError, match="finetuned on other images than those in the catalog"):
        solve_puzzles(
            Weights({}, {}), cell("selfie"), pd.DataFrame({"sample": [0, 1]}), Grids([0, 1]), *parts
        )


def test_comparable_cells_are_tabulated(make_config: Any) -> None:
    cells = [cell("selfie"), cell("supervised"), cell("selfie") | {"configuration": "other"}]
    selection, table, markdown = tabulate_results(cells, *cells[:2], make_config().experiment, None)
    assert selection.other_configuration == cells[2:]
    assert table["seeds"].tolist() == [1, 1]
    assert markdown.count("\n| 5 %") == 2


def test_arms_from_the_given_weights_are_shown(make_config: Any, tmp_path: Path) -> None:
    file = tmp_path / "given.safetensors"
    save_file({"a": torch.ones(1)}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    begun = {"steps": 6, "weights": digest}
    cells = [
        cell("selfie", pretrain={"steps": 6}),
        cell("supervised"),
        cell("weights", weights=digest) | {"configuration": "a"},
        cell("weights_selfie", pretrain=begun) | {"configuration": "b"},
        cell("weights", weights="another file") | {"configuration": "c"},
        cell("weights_selfie", pretrain=begun | {"steps": 7}) | {"configuration": "d"},
        cell("weights", weights=digest, model={"width": 16}) | {"configuration": "e"},
    ]
    arms = ["supervised", "selfie", "weights", "weights_selfie"]
    config = make_config({"experiment.arms": arms, "weights": str(file)})

    selection, table, _ = tabulate_results(cells, *cells[:2], config.experiment, config.weights)

    assert table["arm"].tolist() == arms
    assert selection.other_configuration == cells[4:]
    plain, _, _ = tabulate_results(cells, *cells[:2], make_config().experiment, config.weights)
    assert plain.other_configuration == cells[2:]


def test_class_names_are_indexed_by_label() -> None:
    samples = pd.DataFrame(
        {"label": [2, -1, 0, 2, 1], "class_name": ["o\nwl", "", "cat", "o\nwl", "dog"]}
    )
    assert list_class_names(samples) == ["cat", "dog", r"o\nwl"]


@pytest.mark.parametrize("column", ["label", "predicted", "runner_up"])
def test_predictions_of_other_classes_are_refused(column: str) -> None:
    predictions = pd.DataFrame({"label": [0, 1], "predicted": [1, 1], "runner_up": [0, 0]})
    check_predictions(predictions, ["cat", "dog"])

    with pytest.raises(UserError, match="have a class 2, and the data set has 2 classes"):
        check_predictions(predictions.assign(**{column: [0, 2]}), ["cat", "dog"])
