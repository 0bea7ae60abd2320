"""The network that is finetuned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.layers.classifier import ClassifierHead
from timm.models.resnetv2 import ResNetV2
from torch import Tensor, nn

from selfie_pipeline.config import Architecture, ModelConfig, PatchConfig
from selfie_pipeline.models.attention import AttentionPooling
from selfie_pipeline.models.backbone import PRETRAINED_STAGES, PatchNetwork, build_resnet
from selfie_pipeline.models.dropout import DropoutRng
from selfie_pipeline.models.patch_grid import patchify
from selfie_pipeline.models.positions import build_positions
from selfie_pipeline.provenance import readable_provenance


class AttentionClassifier(nn.Module):
    """The paper's hybrid: P, A instead of the fourth stage, and a linear classifier on u.

    How the image enters it is a choice of this project, because no available source describes it.
    In finetuning "the Pnet sees the whole image" (H. Lo's notes on the paper), and A replaces the
    fourth stage, whose input is the feature map of the complete image. So P sees the complete
    image. A was pretrained on one vector per patch, each with its position in the grid: so the map
    is cut into that grid, and a patch's vector is the mean over its part, as in pretraining. All
    patches are context.

    Its tensors have the same names as those of `Selfie`; only the head is new.
    """

    def __init__(self, model: ModelConfig, patch: PatchConfig, classes: int) -> None:
        super().__init__()
        self.grid_size = patch.grid_size
        self.patch_network = PatchNetwork(model)
        self.pooling = AttentionPooling(model.features, model.attention)
        self.positions = (
            build_positions(model, patch.grid_size) if model.encoder_positions else None
        )
        self.head = ClassifierHead(model.features, classes, pool_type="")

    def forward(self, images: Tensor, rng: DropoutRng | None = None) -> Tensor:
        """Classify images.

        Args:
            images: (B, 3, H, W); the sides of a patch are multiples of `ModelConfig.stride`.
            rng: Random numbers of the dropout in A; None in evaluation.

        Returns:
            (B, classes): logits.

        Raises:
            ValueError: The feature map is not square, or can't be cut into the patch grid.
        """
        maps = self.patch_network.forward_features(images)  # (B, D, h, w)
        height, width = maps.shape[2:]
        if height != width or width % self.grid_size:
            grid = f"{self.grid_size}×{self.grid_size}"
            raise ValueError(f"a feature map of {height}×{width} can't be cut into {grid} patches")
        parts = patchify(maps, width // self.grid_size)  # (B, N, D, h / R, w / S)
        vectors = parts.mean(dim=(3, 4))  # (B, N, D)
        if self.positions is not None:
            vectors = vectors + self.positions()  # (B, N, D)
        logits: Tensor = self.head(self.pooling(vectors, rng))  # (B, classes)
        return logits


Classifier = ResNetV2 | AttentionClassifier


def build_classifier(
    model: ModelConfig, architecture: Architecture, patch: PatchConfig, classes: int
) -> Classifier:
    """Build the network that is finetuned, initialised from torch's global random state.

    For `resnet36_attention` it is an `AttentionClassifier`; a ResNet does not need `patch`.

    Returns:
        A network from (B, 3, H, W), normalised images, to (B, classes), logits.
    """
    if architecture == "resnet":
        return build_resnet(model, classes)
    return AttentionClassifier(model, patch, classes)


def restore_classifier(tensors: Mapping[str, Tensor], provenance: Mapping[str, Any]) -> Classifier:
    """Build the network of a classifier's tensors, with the configuration it was trained with.

    The tensors are named as in the network's `state_dict`.

    Raises:
        UserError: The provenance does not describe the network of these tensors, because another
            version of this project made it.
    """
    with readable_provenance("classifier", "network"):
        configuration = provenance["configuration"]
        network = build_classifier(
            ModelConfig.model_validate(configuration["model"]),
            configuration["finetune"]["architecture"],
            PatchConfig.model_validate(configuration["patch"]),
            num_classes(tensors),
        )
        network.load_state_dict(tensors, strict=True)
    return network


def num_classes(classifier: Mapping[str, Tensor]) -> int:
    """Return the number of outputs of a classifier with these tensors, of any architecture.

    Raises:
        KeyError: They lack the head's bias, `head.fc.bias`.
    """
    return len(classifier["head.fc.bias"])


def pretrained_stages(classifier: Classifier) -> nn.Module:
    """Return P's part of a classifier, which shares its tensors.

    This is the stem and the stages; in a hybrid also the normalisation.
    """
    if isinstance(classifier, AttentionClassifier):
        return classifier.patch_network
    stages = nn.Sequential(classifier.stem, classifier.stages[:PRETRAINED_STAGES])
    return stages.train(classifier.training)  # a new module is in training mode
