"""The decoders of segmentation networks, Semantic FPN and UPerNet, and their one building block."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from ctxvision.tasks.features import LayerKind, make_fpn

NormName = Literal["batch", "group"]


def conv_norm_relu(in_channels: int, channels: int, kernel_size: int, norm: NormName = "batch") -> nn.Module:
    """Build a convolution that keeps the size, with its norm and ReLU, initialised for ReLU (He, fan out).

    Args:
        in_channels: The number of channels of the input.
        channels: The number of channels of the output; a multiple of 32 for ``group``.
        kernel_size: The side of the kernel, an odd number.
        norm: The kind of the normalisation, over the ``batch``, or over each of 32 ``group``s of channels of each
            image.

    Raises:
        ValueError: The norm is unknown, or the channels do not divide into groups.
    """
    if norm not in ("batch", "group"):
        raise ValueError(f"norm must be batch or group, got {norm!r}")
    if norm == "group" and channels % 32:
        raise ValueError(f"group norm needs a multiple of 32 channels, got {channels}")
    layer = nn.BatchNorm2d if norm == "batch" else partial(nn.GroupNorm, 32)
    block: nn.Sequential = Conv2dNormActivation(in_channels, channels, kernel_size, norm_layer=layer)
    nn.init.kaiming_normal_(cast(Tensor, block[0].weight), mode="fan_out", nonlinearity="relu")
    return block


def classifier(channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    """Build dropout of whole channels and the last, 1 × 1 convolution, whose logits start near 0."""
    conv = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.get_parameter("bias"))
    return nn.Sequential(nn.Dropout2d(dropout), conv)


class SemanticFPN(nn.Module):
    """Decoder of Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019, with one more choice of neck.

    The pyramid is torchvision's. The ``involution`` neck has 7 × 7 involutions in place of its four 3 × 3 output
    convolutions (Li et al., Involution, CVPR 2021). Each level then takes as many 3 × 3 convolutions as it is
    doubled in size, the first at least one; where that has made it larger than the finest level, because sizes
    are odd, it is resized to that (as in mmsegmentation). The sum at stride 4 is classified.

    Args:
        in_channels: The number of channels of each feature, strides 4 to 32.
        num_classes: The number of outputs.
        neck: The kind of the layers that smooth the levels of the pyramid.
        pyramid_channels: The number of channels of the levels; a multiple of 16 for ``involution``.
        channels: The number of channels after the pyramid.
        norm: The norm of the convolutions after the pyramid.
        dropout: The probability that dropout zeroes a whole channel before the classifier.
        strides: The strides of the features; where two are the same, a level is not doubled between them.

    Shape:
        The input is maps of the strides; the output is logits ``(B, num_classes, H / 4, W / 4)``.

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
        strides: Sequence[int] = (4, 8, 16, 32),
    ) -> None:
        super().__init__()
        self.factors = [fine // finer for fine, finer in zip(strides[1:], strides, strict=False)]
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
            for block, factor in zip(levels[level], self.factors[level - 1 :: -1], strict=False):
                # as mmsegmentation: twice the size whatever the size of the finer level; the sum fits them
                x = block(x)
                if factor > 1:
                    size = [factor * side for side in x.shape[2:]]
                    x = F.interpolate(x, size, mode="bilinear", align_corners=False)
            total = total + _resize(x, total)
        logits: Tensor = self.classifier(total)
        return logits


class PyramidPooling(nn.Module):
    """Averages a feature over coarse grids, enlarges and fuses them (Zhao et al., PSPNet, CVPR 2017).

    Args:
        in_channels: The number of channels of the feature.
        channels: The number of channels of each pooled map and of the output.
        pool_scales: The sides of the grids that the feature is pooled to.
        norm: The norm of the convolutions.
    """

    def __init__(self, in_channels: int, channels: int, pool_scales: Sequence[int], norm: NormName) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), conv_norm_relu(in_channels, channels, 1, norm))
            for side in pool_scales
        )
        self.fuse = conv_norm_relu(in_channels + len(pool_scales) * channels, channels, 3, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Turn a feature (B, in_channels, H, W) into (B, channels, H, W)."""
        pooled = [_resize(branch(x), x) for branch in self.branches]
        fused: Tensor = self.fuse(torch.cat([x, *pooled], 1))
        return fused


class UPerNet(nn.Module):
    """Decoder of Xiao et al., Unified Perceptual Parsing for Scene Understanding, ECCV 2018, in its usual form.

    Args:
        in_channels: The number of channels of each feature, strides 4 to 32.
        num_classes: The number of outputs.
        channels: The number of channels of all levels.
        pool_scales: The sides of the grids of the pyramid pooling.
        norm: The norm of all convolutions.
        dropout: The probability that dropout zeroes a whole channel before the classifier.

    Shape:
        The input is four maps of strides 4, 8, 16, 32; the output is logits ``(B, num_classes, H / 4, W / 4)``.

    Raises:
        ValueError: The norm is unknown, or the channels do not divide into its groups.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        norm: NormName = "batch",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.pooling = PyramidPooling(in_channels[-1], channels, pool_scales, norm)
        self.laterals = nn.ModuleList(conv_norm_relu(width, channels, 1, norm) for width in in_channels[:-1])
        self.outputs = nn.ModuleList(conv_norm_relu(channels, channels, 3, norm) for _ in in_channels[:-1])
        self.fuse = conv_norm_relu(len(in_channels) * channels, channels, 3, norm)
        self.classifier = classifier(channels, num_classes, dropout)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B, num_classes, H / 4, W / 4) of four features, finest first."""
        levels = [self.pooling(features[-1])]  # coarsest first
        for lateral, feature in zip(self.laterals[::-1], features[-2::-1], strict=True):
            x = lateral(feature)
            levels.append(x + _resize(levels[-1], x))
        outputs = [output(x) for output, x in zip(self.outputs, levels[:0:-1], strict=True)]
        levels = [_resize(x, features[0]) for x in (*outputs, levels[0])]  # finest first
        logits: Tensor = self.classifier(self.fuse(torch.cat(levels, 1)))
        return logits


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)
