"""Backbone, decoder and auxiliary head as one network, from plain values."""

from collections.abc import Mapping
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ctxvision.tasks.error import TaskError, require_own
from ctxvision.tasks.features import FeatureBackbone

from .layers import NormName, classifier, conv_norm_relu
from .semantic_fpn import SemanticFPN
from .upernet import UPerNet

DecoderName = Literal["semantic_fpn", "upernet"]
_DECODERS: dict[str, type[nn.Module]] = {"semantic_fpn": SemanticFPN, "upernet": UPerNet}
STRIDES = (4, 8, 16, 32)
_TAKEN = {
    "in_channels": "it follows from the backbone",
    "num_classes": "it follows from the classes of the data",
}
_AUXILIARY_STAGE = 2  # stride 16


class SegmentationNetwork(nn.Module):
    """A backbone and a decoder, which give every pixel logits.

    Args:
        backbone: The backbone, whose features have strides 4 to 32.
        decoder: The decoder, from features to logits at stride 4.
        auxiliary: The head on the feature of stride 16, for training alone.
    """

    def __init__(self, backbone: FeatureBackbone, decoder: nn.Module, auxiliary: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.auxiliary = auxiliary

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes, H, W) of images (B, C, H, W); bilinear from stride 4."""
        return _enlarge(self.decoder(self.backbone(images)), images)

    def forward_with_auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits and those of the auxiliary head, both (B, num_classes, H, W)."""
        features = self.backbone(images)
        logits = _enlarge(self.decoder(features), images)
        if self.auxiliary is None:
            return logits, None
        return logits, _enlarge(self.auxiliary(features[_AUXILIARY_STAGE]), images)


def build_network(
    model: str,
    num_classes: int,
    *,
    decoder: DecoderName = "semantic_fpn",
    decoder_args: Mapping[str, Any] | None = None,
    auxiliary: bool | None = None,
    in_chans: int = 3,
    drop_path_rate: float = 0.0,
    model_args: Mapping[str, Any] | None = None,
) -> SegmentationNetwork:
    """Build a segmentation network; nothing is downloaded or read.

    Args:
        model: The backbone: any name that timm knows with features of strides 4 to 32.
        num_classes: The number of outputs.
        decoder: The decoder over the backbone.
        decoder_args: More arguments of the decoder's constructor, such as ``neck`` or ``channels``; see
            `SemanticFPN` and `UPerNet`.
        auxiliary: Whether a small FCN learns beside the decoder; by default it does beside UPerNet, as published.
        in_chans: The number of channels of the image.
        drop_path_rate: The probability that stochastic depth leaves out a residual branch of the backbone.
        model_args: More arguments of the backbone's constructor. With ``output_stride`` 16 or 8 the last stages
            dilate instead of striding, and the decoder takes their maps as they are.

    Raises:
        TaskError: Names are unknown, or arguments do not fit.

    Examples:
        >>> import torch
        >>> build_network("rednet_micro", 19).eval()(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 19, 64, 96])
    """
    if decoder not in _DECODERS:
        raise TaskError(f"unknown decoder {decoder!r}; there are {', '.join(_DECODERS)}")
    coarsest = (model_args or {}).get("output_stride")
    strides = [min(stride, coarsest) if isinstance(coarsest, int) else stride for stride in STRIDES]
    backbone = FeatureBackbone(
        model, strides, in_chans=in_chans, norm="batch", drop_path_rate=drop_path_rate, model_args=model_args
    )
    options = dict(decoder_args or {})
    require_own(f"decoder_args of {decoder}", options, _TAKEN)
    for name in ("channels", "pyramid_channels"):
        if isinstance(width := options.get(name, 1), int) and width < 1:
            raise TaskError(f"decoder {decoder}: {name} must be at least 1, got {width}")
    try:
        head = _DECODERS[decoder](backbone.channels, num_classes, **options)
        norm: NormName = options.get("norm", "batch")
        with_auxiliary = decoder == "upernet" if auxiliary is None else auxiliary
        fcn = _fcn_head(backbone.channels[_AUXILIARY_STAGE], num_classes, norm) if with_auxiliary else None
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TaskError(f"decoder {decoder} with {options}: {reason}") from error
    return SegmentationNetwork(backbone, head, fcn)


def _fcn_head(in_channels: int, num_classes: int, norm: NormName, channels: int = 256) -> nn.Sequential:
    """Build one 3 × 3 convolution and a classifier (Long et al., CVPR 2015, as trained beside UPerNet)."""
    return nn.Sequential(conv_norm_relu(in_channels, channels, 3, norm), classifier(channels, num_classes, 0.1))


def _enlarge(logits: Tensor, images: Tensor) -> Tensor:
    return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)
