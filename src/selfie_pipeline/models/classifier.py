"""Handing the pretrained stages over to the network that is finetuned."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from selfie_pipeline.models.backbone import PRETRAINED_STAGES

_PREFIX = "patch_network."
_STAYS_BEHIND = "patch_network.norm."
_HANDED_OVER = ("stem.", *(f"stages.{stage}." for stage in range(PRETRAINED_STAGES)))


def hand_over(encoder: Mapping[str, Tensor], classifier: nn.Module) -> list[str]:
    """Copy P's stem and stages into a classifier: strictly, by name, all or nothing.

    The mean over space in P and its last normalisation are not part of the ResNet and stay behind;
    so do A and the positions. Stage four and the classifier's head are not touched.

    Args:
        encoder: The tensors of a pretrained `Selfie`, as its `state_dict` names them.
        classifier: A network from `build_resnet`; changed in place.

    Returns:
        The names of the tensors handed over, as the classifier calls them.

    Raises:
        ValueError: A tensor is missing on either side or its shape differs; the message names it.
            Nothing has been copied then.
    """
    given = {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in encoder.items()
        if name.startswith(_PREFIX) and not name.startswith(_STAYS_BEHIND)
    }
    own = classifier.state_dict()
    wanted = {name for name in own if name.startswith(_HANDED_OVER)}
    problems = [f"{name} is missing in the encoder" for name in sorted(wanted - given.keys())]
    problems += [f"{name} has no place in the network" for name in sorted(given.keys() - wanted)]
    problems += [
        f"{name} is {_shape(given[name])} in the encoder, {_shape(own[name])} in the network"
        for name in sorted(wanted & given.keys())
        if given[name].shape != own[name].shape
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ValueError(f"the encoder does not fit the network: {problems[0]}{more}")
    classifier.load_state_dict({**own, **given}, strict=True)
    return sorted(given)


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a scalar"
