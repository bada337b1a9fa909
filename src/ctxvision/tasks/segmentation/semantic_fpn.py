"""Semantic FPN: a feature pyramid, each level brought to stride 4, and their sum."""

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from ctxvision.tasks.pyramid import LayerKind, make_fpn

from .layers import NormName, classifier, conv_norm_relu


class SemanticFPN(nn.Module):
    """Decoder of Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019, with one more choice of neck.

    The pyramid is torchvision's. The ``involution`` neck has 7 × 7 involutions in place of its four 3 × 3 output
    convolutions (Li et al., Involution, CVPR 2021). Each level then takes as many 3 × 3 convolutions as it is
    doubled in size, the first at least one, and the sum at stride 4 is classified.

    Args:
        in_channels: The number of channels of each feature, strides 4 to 32.
        num_classes: The number of outputs.
        neck: The kind of the layers that smooth the levels of the pyramid.
        pyramid_channels: The number of channels of the levels; a multiple of 16 for ``involution``.
        channels: The number of channels after the pyramid.
        norm: The norm of the convolutions after the pyramid.
        dropout: The probability that dropout zeroes a whole channel before the classifier.

    Shape:
        The input is four maps of strides 4, 8, 16, 32; the output is logits ``(B, num_classes, H / 4, W / 4)``.

    Raises:
        ValueError: The neck or the norm is unknown, or the channels do not divide as needed.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        neck: LayerKind = "convolution",
        pyramid_channels: int = 256,
        channels: int = 128,
        norm: NormName = "batch",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if neck not in ("convolution", "involution"):
            raise ValueError(f"neck must be convolution or involution, got {neck!r}")
        self.pyramid = make_fpn(in_channels, pyramid_channels, neck)
        self.levels = nn.ModuleList(
            nn.ModuleList(
                conv_norm_relu(channels if step else pyramid_channels, channels, 3, norm)
                for step in range(max(level, 1))
            )
            for level in range(len(in_channels))
        )
        self.classifier = classifier(channels, num_classes, dropout)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B, num_classes, H / 4, W / 4) of four features, finest first."""
        pyramid = list(self.pyramid({str(i): x for i, x in enumerate(features)}).values())
        levels = cast(Sequence[Sequence[nn.Module]], self.levels)
        total = levels[0][0](pyramid[0])
        for level in range(1, len(pyramid)):
            x = pyramid[level]
            for block, finer in zip(levels[level], pyramid[level - 1 :: -1], strict=False):
                # twice the size, or one less where a size is odd
                x = F.interpolate(block(x), finer.shape[2:], mode="bilinear", align_corners=False)
            total = total + x
        logits: Tensor = self.classifier(total)
        return logits
