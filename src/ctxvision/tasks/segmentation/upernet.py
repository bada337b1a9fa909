"""UPerNet: pyramid pooling on the last stage, a feature pyramid below it, all levels fused."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import NormName, classifier, conv_norm_relu


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
