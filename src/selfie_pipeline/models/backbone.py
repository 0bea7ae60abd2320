"""The ResNet that is finetuned, and the patch processing network P: its stem and first stages.

Both are timm's `resnetv2_50` or narrower versions of it, with timm's names for every tensor, so
that tensors are transferred between them by name.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, cast

import timm
from timm.layers.norm_act import BatchNormAct2d
from timm.models.resnetv2 import ResNetV2
from torch import Tensor, nn

from selfie_pipeline.config import ModelConfig
from selfie_pipeline.models.convolution import create_conv2d

PRETRAINED_STAGES = 3


def build_resnet(config: ModelConfig, classes: int) -> ResNetV2:
    """Build the complete network: stem, four stages, classifier.

    Args:
        config: Depth, width, kind of blocks and stem. Layers 3, 4, 6, 3 at width 64 with the
            standard stem are timm's `resnetv2_50`.
        classes: Number of outputs of the classifier.

    Returns:
        A network initialised from torch's global random state, (B, 3, H, W) to (B, classes).
    """
    network = cast(
        "ResNetV2",
        timm.create_model(
            "resnetv2_50",
            num_classes=classes,
            conv_layer=create_conv2d,
            **timm_arguments(config),
        ),
    )
    if config.stem == "small":
        network.stem = _build_small_stem(config)
    return network


def timm_arguments(config: ModelConfig, stages: int = 4) -> dict[str, Any]:
    """Return the arguments with which timm builds the first stages of the network."""
    return {
        "layers": config.layers[:stages],
        "channels": tuple(config.width * factor for factor in (4, 8, 16, 32)[:stages]),
        "stem_chs": config.width,
        "preact": config.preactivation,
    }


def _build_small_stem(config: ModelConfig) -> nn.Sequential:
    """Build a 3×3 stem, stride 1, no pooling: stage three maps an 8×8 patch to 2×2."""
    conv = create_conv2d(3, config.width, kernel_size=3)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as timm does
    parts: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
    if not config.preactivation:
        parts["norm"] = BatchNormAct2d(config.width)
    return nn.Sequential(parts)


class PatchNetwork(nn.Module):
    """P: the stem and the first three stages of the ResNet, then the mean over space."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        resnet = build_resnet(config, classes=1)
        self.stem = resnet.stem
        self.stages = resnet.stages[:PRETRAINED_STAGES]
        # The output of a pre-activation stage is a raw sum, whose scale grows with depth.
        normalise = config.preactivation and config.normalise_before_pooling
        self.norm = BatchNormAct2d(config.features) if normalise else nn.Identity()

    def forward_features(self, images: Tensor) -> Tensor:
        """Compute the feature maps of patches or images: (B, 3, H, W) to (B, D, h, w)."""
        out: Tensor = self.norm(self.stages(self.stem(images)))
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Compute the vectors of patches or images: (B, 3, H, W) to (B, D)."""
        maps = self.forward_features(images).permute(0, 2, 3, 1)  # (B, h, w, D)
        # The mean over two dimensions has a gradient that is not channels-last: slow for ReLU.
        return maps.flatten(1, 2).mean(dim=1)  # (B, D)
