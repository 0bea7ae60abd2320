"""The network that is finetuned, and handing the pretrained part of it over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.layers.classifier import ClassifierHead
from timm.models.resnetv2 import ResNetV2
from torch import Tensor, nn

from selfie_pipeline.config import Architecture, ModelConfig, PatchConfig, UserError
from selfie_pipeline.models.attention import AttentionPooling
from selfie_pipeline.models.backbone import PRETRAINED_STAGES, PatchNetwork, build_resnet
from selfie_pipeline.models.dropout import DropoutRng
from selfie_pipeline.models.patch_grid import patchify
from selfie_pipeline.models.positions import build_positions


class AttentionClassifier(nn.Module):
    """The paper's hybrid: P, A in the place of the fourth stage, and a linear classifier on u.

    How the image enters it is a choice; no source at hand describes it. In finetuning "the Pnet
    sees the whole image" (H. Lo's notes on the paper), and A in the place of the fourth stage
    reads what that stage would: the whole image's map. So P sees the whole image. A was
    pretrained on one vector a patch, each with its place in the grid: the map is cut into that
    grid, and a patch's vector is the mean over its part, as in pretraining. All are context.

    Its tensors have the names of `Selfie`'s; only the head is new.
    """

    def __init__(self, model: ModelConfig, patch: PatchConfig, classes: int) -> None:
        super().__init__()
        self.grid_size = patch.grid_size
        self.patch_network = PatchNetwork(model)
        self.pooling = AttentionPooling(model.features, model.attention)
        if model.encoder_positions:
            self.positions = build_positions(model, patch.grid_size)
        self.head = ClassifierHead(model.features, classes, pool_type="")

    def forward(self, images: Tensor, noise: DropoutRng | None = None) -> Tensor:
        """Classify whole images.

        Args:
            images: (B, 3, H, W); the sides of a patch are multiples of `ModelConfig.stride`.
            noise: Where units drop in A; none in evaluation.

        Returns:
            (B, classes): logits.

        Raises:
            ValueError: The map can't be cut into the patch grid.
        """
        maps = self.patch_network.features(images)  # (B, D, h, w)
        parts = patchify(maps, maps.shape[-1] // self.grid_size)  # (B, N, D, h / R, w / S)
        vectors = parts.mean(dim=(3, 4))  # (B, N, D)
        if hasattr(self, "positions"):
            vectors = vectors + self.positions()  # (B, N, D)
        logits: Tensor = self.head(self.pooling(vectors, noise))  # (B, classes)
        return logits


Classifier = ResNetV2 | AttentionClassifier


def build_classifier(
    model: ModelConfig, architecture: Architecture, patch: PatchConfig, classes: int
) -> Classifier:
    """The network that is finetuned, freshly initialised from torch's global random state.

    Args:
        model: The sizes.
        architecture: `resnet`, or `resnet36_attention` for an `AttentionClassifier`.
        patch: For the grid, which a ResNet does not know.
        classes: Outputs of the classifier.

    Returns:
        From (B, 3, H, W), normalised images, to (B, classes), logits.
    """
    if architecture == "resnet":
        return build_resnet(model, classes)
    return AttentionClassifier(model, patch, classes)


def restore_classifier(tensors: Mapping[str, Tensor], provenance: Mapping[str, Any]) -> Classifier:
    """Build the network of a classifier's tensors, with the configuration it was trained with.

    Args:
        tensors: The tensors, as the network's `state_dict` names them.
        provenance: The provenance stored with them.

    Raises:
        UserError: The provenance lacks the configuration, as of another version of this project.
    """
    made_with = provenance["configuration"]
    try:
        network = build_classifier(
            ModelConfig.model_validate(made_with["model"]),
            made_with["finetune"]["architecture"],
            PatchConfig.model_validate(made_with["patch"]),
            num_classes(tensors),
        )
    except (KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the classifier does not say which network it is ({reason}): another version of this "
            "project made it; make it again with `kedro run --pipelines=finetune,baseline`"
        ) from None
    network.load_state_dict(tensors, strict=True)
    return network


def num_classes(classifier: Mapping[str, Tensor]) -> int:
    """Classes that a classifier of these tensors tells apart, whatever its architecture."""
    return len(classifier["head.fc.bias"])


def pretrained_stages(classifier: Classifier) -> nn.Module:
    """The part of a classifier that is P's, sharing its tensors: stem, stages, in a hybrid norm."""
    if isinstance(classifier, AttentionClassifier):
        return classifier.patch_network
    stages = nn.Sequential(classifier.stem, classifier.stages[:PRETRAINED_STAGES])
    return stages.train(classifier.training)  # a new module is in training mode


def load_pretrained(encoder: Mapping[str, Tensor], classifier: Classifier) -> list[str]:
    """Copy what was pretrained into a classifier: strictly, by name, all or nothing.

    A ResNet takes P's stem and stages. The last normalisation in P is not part of it and stays
    behind; so do A and the positions. A hybrid takes everything, but positions that it does not
    use. What the encoder lacks is not touched: stage four, the ResNet's last normalisation, the
    head.

    Args:
        encoder: The tensors of a pretrained `Selfie`, as its `state_dict` names them.
        classifier: A network from `build_classifier`; changed in place.

    Returns:
        The names of the tensors handed over, as the classifier calls them.

    Raises:
        ValueError: A tensor is missing on either side or its shape differs; the message names it.
            Nothing has been copied then.
    """
    own = classifier.state_dict()
    prefix, stays_behind, fresh = _roles(classifier)
    given = {
        name.removeprefix(prefix): tensor
        for name, tensor in encoder.items()
        if not name.startswith(stays_behind)
    }
    wanted = {name for name in own if not name.startswith(fresh)}
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


def _roles(classifier: Classifier) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """What the encoder's names have in front, what of it stays behind, and what is fresh."""
    if isinstance(classifier, AttentionClassifier):
        return "", () if hasattr(classifier, "positions") else ("positions.",), ("head.",)
    stays_behind = ("patch_network.norm.", "pooling.", "positions.")
    return "patch_network.", stays_behind, (f"stages.{PRETRAINED_STAGES}.", "norm.", "head.")


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a scalar"
