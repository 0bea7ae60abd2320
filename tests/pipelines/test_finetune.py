"""The nodes that choose, fill and find again the network that is finetuned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch

from selfie_pipeline.config import Architecture, Config, UserError
from selfie_pipeline.models.selfie import Selfie
from selfie_pipeline.pipelines.finetune.nodes import (
    finetune_classifier,
    initialise,
    network_name,
)
from selfie_pipeline.provenance import dump_configuration
from selfie_pipeline.weights import Weights

SAMPLES = pd.DataFrame({"label": [0, 2, 1, 2]})
ARCHITECTURES = ["resnet", "resnet36_attention"]
MakeConfig = Callable[..., Config]


def pretrained(config: Config) -> Weights:
    torch.manual_seed(1)
    made_with = dump_configuration(model=config.model, pretrain=config.pretrain)
    tensors = Selfie(config.model, config.patch).state_dict()
    origin = {"configuration": made_with, "data": "a fingerprint", "pretraining_images": 4}
    return Weights(tensors, origin)


def from_encoder(encoder: Weights, config: Config) -> Weights:
    return initialise(SAMPLES, config.patch, config.model, config.finetune, config.seed, encoder)


def from_scratch(config: Config) -> Weights:
    return initialise(SAMPLES, config.patch, config.model, config.finetune, config.seed)


def hybrid(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"finetune.architecture": "resnet36_attention"} | (changes or {})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_arms_differ_in_the_pretrained_tensors_alone(
    make_config: MakeConfig, architecture: Architecture
) -> None:
    config = make_config({"finetune.architecture": architecture})
    selfie, supervised = from_encoder(pretrained(config), config), from_scratch(config)

    names = set(selfie.provenance["pretrained"])
    assert supervised.provenance["pretrained"] == []
    assert selfie.tensors.keys() == supervised.tensors.keys()
    fresh = selfie.tensors.keys() - names
    assert "head.fc.weight" in fresh
    assert len(selfie.tensors["head.fc.bias"]) == 3
    for name in fresh:
        assert torch.equal(selfie.tensors[name], supervised.tensors[name]), name
    different = {
        name for name in names if not torch.equal(selfie.tensors[name], supervised.tensors[name])
    }
    assert any(name.endswith("conv1.weight") for name in different)


@pytest.mark.parametrize(
    "changes", [{"model.encoder_positions": False}, {"model.attention.heads": 8}], ids=str
)
def test_a_hybrid_refuses_an_encoder_that_used_the_same_tensors_in_another_way(
    make_config: MakeConfig, changes: dict[str, Any]
) -> None:
    encoder = pretrained(make_config())
    (key,) = changes

    with pytest.raises(UserError, match=f"^{key} = .* --pipeline=pretrain"):
        from_encoder(encoder, make_config(hybrid(changes)))

    from_encoder(encoder, make_config(changes))  # a ResNet has no use for them


@pytest.mark.parametrize("column", ["label", "place"])
def test_a_labeled_subset_of_earlier_samples_is_refused(column: str) -> None:
    """A run of some nodes loads the latest subset, which another may have drawn long ago."""
    samples = pd.DataFrame({"sample": [0, 1, 2], "label": [0, 1, 0], "place": ["a", "b", "c"]})
    changed = samples.assign(**{column: samples[column].shift(1, fill_value=samples[column][2])})
    nothing: list[Any] = [None] * 10

    with pytest.raises(UserError, match="labeled_samples were drawn from earlier usable_samples"):
        finetune_classifier(Weights({}, {}), samples.iloc[1:], changed, *nothing)


def test_an_encoder_of_another_size_is_refused(make_config: MakeConfig) -> None:
    encoder = pretrained(make_config())
    other = make_config(hybrid({"model.attention.intermediate": 32}))

    with pytest.raises(UserError, match=r"pooling\.blocks\.0\.linear1\.bias is 48 instead of 32"):
        from_encoder(encoder, other)


@pytest.mark.parametrize(
    ("changes", "architecture", "name"),
    [
        ({"model.layers": [3, 4, 6, 3], "model.width": 64}, "resnet", "ResNet-50 v2"),
        (
            {"model.layers": [3, 4, 6, 3], "model.width": 64},
            "resnet36_attention",
            "ResNet-36 v2 + attention",
        ),
        ({"model.preactivation": False}, "resnet", "ResNet v1 1-1-1-1, width 8"),
        ({}, "resnet36_attention", "ResNet v2 1-1-1, width 8 + attention"),
    ],
)
def test_a_network_has_a_name(
    make_config: MakeConfig, changes: dict[str, Any], architecture: Architecture, name: str
) -> None:
    assert network_name(make_config(changes).model, architecture) == name
