"""Loads weights into a network by name: strictly, all or none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from timm.models.resnetv2 import ResNetV2
from torch import Tensor, nn

from selfie_pipeline.config import UserError
from selfie_pipeline.models.backbone import PRETRAINED_STAGES
from selfie_pipeline.models.classifier import AttentionClassifier, Classifier
from selfie_pipeline.printable import list_first

_V1_NAMES = (  # of timm's and torchvision's ResNet v1, and of timm's ResNetV2: the same blocks
    (r"^conv1\.", "stem.conv."),
    (r"^bn1\.", "stem.norm."),
    (r"^fc\.", "head.fc."),
    (r"^layer(\d)\.(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}."),
    (r"\.bn(\d)\.", r".norm\1."),
    (r"\.downsample\.0\.", ".downsample.conv."),
    (r"\.downsample\.1\.", ".downsample.norm."),
)
_FOURTH_STAGE = f"stages.{PRETRAINED_STAGES}."
_OTHERS = ("head.", "pooling.", "positions.")


def load_pretrained(encoder: Mapping[str, Tensor], classifier: Classifier) -> list[str]:
    """Load the pretrained tensors into a classifier.

    A ResNet receives P's stem and stages, but not the last normalisation in P, A and the positions.
    A hybrid receives everything, except for positions that it does not use. All other tensors of
    the classifier stay as they are: stage four, the ResNet's last normalisation, the head.

    Args:
        encoder: The tensors of a pretrained `Selfie`, as its `state_dict` names them.
        classifier: A network from `build_classifier`; changed in place.

    Returns:
        The classifier's names of the loaded tensors.

    Raises:
        UserError: As `load_given_weights`.
    """
    if isinstance(classifier, AttentionClassifier):
        unused: tuple[str, ...] = () if classifier.positions is not None else ("positions.",)
        fresh: tuple[str, ...] = ("head.",)
    else:
        unused = ("norm.", "pooling.", "positions.")
        fresh = (_FOURTH_STAGE, "norm.", "head.")
    return _load("encoder's tensors", encoder, classifier, unused, fresh)


def load_given_weights(tensors: Mapping[str, Tensor], network: nn.Module) -> list[str]:
    """Load a ResNet's weights into a classifier or a `Selfie`.

    A network with a fourth stage receives it and the last normalisation, if they are given; else
    both stay as they are. P receives the stem and three stages, and its own last normalisation if
    the given weights are those of a P. A classifier's head, A and the positions are never loaded.

    Args:
        tensors: By the names of timm's `resnetv2_50` or `resnet50`, or by those of this project's
            encoders and classifiers. A ResNet also takes them without the fourth stage.
        network: A classifier or a `Selfie`; changed in place.

    Returns:
        The network's names of the loaded tensors.

    Raises:
        UserError: A tensor is missing on either side or its shape differs; the message says which
            ones, what network is expected and what network the weights are of. Nothing has been
            loaded. Counts of batches may be missing, because BatchNorm does not use them here.
    """
    whole = any(_rename(name).startswith(_FOURTH_STAGE) for name in tensors)
    ignored = (
        _OTHERS if whole == isinstance(network, ResNetV2) else (*_OTHERS, _FOURTH_STAGE, "norm.")
    )
    return _load("given weights", tensors, network, unused=ignored, fresh=ignored)


def _load(
    source: str,
    tensors: Mapping[str, Tensor],
    network: nn.Module,
    unused: tuple[str, ...],
    fresh: tuple[str, ...],
) -> list[str]:
    """Copy tensors into a network.

    `unused` are prefixes of given tensors to ignore, `fresh` those of the network's tensors to
    leave as they are.
    """
    own = network.state_dict()
    given = {_rename(name): tensor for name, tensor in tensors.items()}
    if len(given) < len(tensors):
        raise UserError(f"two tensors among the {source} have the same name in timm")
    given = {name: tensor for name, tensor in given.items() if not name.startswith(unused)}
    wanted = {_rename(name): name for name in own if not _rename(name).startswith(fresh)}
    if problems := _find_problems(given, {plain: own[name] for plain, name in wanted.items()}):
        raise UserError(
            f"the {source} do not fit the network: {problems}; the network is of "
            f"{_describe(own)}, the {source} are of {_describe(tensors)}"
        )
    named = {wanted[plain]: tensor for plain, tensor in given.items()}
    network.load_state_dict({**own, **named}, strict=True)
    return sorted(named)


def _rename(name: str) -> str:
    """Return the name that timm's ResNetV2 has for a tensor."""
    name = name.removeprefix("patch_network.")
    if re.match(r"(conv1|bn1|layer\d|fc)\.", name):
        for pattern, new in _V1_NAMES:
            name = re.sub(pattern, new, name)
    return name


def _find_problems(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return what does not fit, with the first names of each kind; "" if all does."""
    missing = [  # a count of batches is optional: torch.nn.BatchNorm2d does not need it here
        name for name in wanted if name not in given and not name.endswith("num_batches_tracked")
    ]
    surplus = [name for name in given if name not in wanted]
    shapes = [
        f"{name} is {_format_shape(given[name])} instead of {_format_shape(wanted[name])}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    kinds = [
        ("are missing", missing, wanted),
        ("are not part of the network", surplus, given),
        ("differ in shape", shapes, wanted),
    ]
    return "; ".join(
        f"{len(names)} of {len(every)} tensors {problem}: {list_first(names)}"
        for problem, names, every in kinds
        if names
    )


def _describe(tensors: Mapping[str, Tensor]) -> str:
    """Describe a ResNet by the parameters that build it, as far as its tensors tell them."""
    named = {_rename(name): tensor for name, tensor in tensors.items()}
    found = (re.match(r"(stages\.\d+)\.blocks\.\d+\.", name) for name in named)
    blocks = {match[0]: match[1] for match in found if match}  # with its stage
    stem = named.get("stem.conv.weight")
    if not blocks or stem is None or stem.ndim != 4:  # noqa: PLR2004
        return "no ResNet in timm's names"
    layers = [count for _, count in sorted(Counter(blocks.values()).items())]
    size = "small" if stem.shape[-1] == 3 else "standard"  # noqa: PLR2004
    preactivation = str("stem.norm.weight" not in named).lower()
    basic = "" if any(".conv3." in name for name in named) else ", in basic blocks"
    return (
        f"model.layers={layers},model.width={len(stem)},model.stem={size},".replace(" ", "")
        + f"model.preactivation={preactivation}{basic}"
    )


def _format_shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a scalar"
