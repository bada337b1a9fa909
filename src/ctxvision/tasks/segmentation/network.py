"""Backbone, decoder and auxiliary head as one network; logits of whole images, at once or from sliding windows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxvision.tasks.error import TaskError, explain_argument, require_own
from ctxvision.tasks.features import FeatureBackbone

from .decoders import NormName, SemanticFPN, UPerNet, classifier, conv_norm_relu

DecoderName = Literal["semantic_fpn", "upernet"]
_DECODERS: dict[str, type[nn.Module]] = {"semantic_fpn": SemanticFPN, "upernet": UPerNet}
STRIDES = (4, 8, 16, 32)
_TAKEN = {
    "in_channels": "it follows from the backbone",
    "num_classes": "it follows from the classes of the data",
    "strides": "it follows from the backbone",
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
    what = f"decoder_args of {decoder}"
    require_own(what, options, _TAKEN)
    for name in ("channels", "pyramid_channels"):
        if isinstance(width := options.get(name, 1), int) and width < 1:
            raise TaskError(f"decoder {decoder}: {name} must be at least 1, got {width}")
    try:
        own = {"strides": strides} if decoder == "semantic_fpn" else {}
        head = _DECODERS[decoder](backbone.channels, num_classes, **own, **options)
        norm: NormName = options.get("norm", "batch")
        with_auxiliary = decoder == "upernet" if auxiliary is None else auxiliary
        fcn = None
        if with_auxiliary:  # Long et al., CVPR 2015, as trained beside UPerNet
            block = conv_norm_relu(backbone.channels[_AUXILIARY_STAGE], 256, 3, norm)
            fcn = nn.Sequential(block, classifier(256, num_classes, 0.1))
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        explain_argument(what, options, error, _DECODERS[decoder], _TAKEN)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TaskError(f"decoder {decoder} with {options}: {reason}") from error
    return SegmentationNetwork(backbone, head, fcn)


def _enlarge(logits: Tensor, images: Tensor) -> Tensor:
    return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)


Network = Callable[[Tensor], Tensor]
Size = tuple[int, int]


@dataclass(frozen=True)
class Segmentation:
    """The prediction for one image.

    Attributes:
        classes: The most probable class of every pixel, (H, W) int64.
        confidence: The softmax probability of that class, (H, W) float32.
    """

    classes: Tensor
    confidence: Tensor


def window_places(size: Size, window: Size, stride: Size) -> list[tuple[int, int]]:
    """List the upper left corners of the windows that cover an image.

    Windows follow each other by ``stride``; the last of a row or column is moved back to end with the image.

    Args:
        size: The height and width of the image in pixels.
        window: The height and width of a window in pixels, at most those of the image.
        stride: The vertical and horizontal distance between windows in pixels, at most a window, so that every
            pixel is covered.

    Examples:
        >>> window_places((4, 10), (4, 4), (3, 3))
        [(0, 0), (0, 3), (0, 6)]
    """
    starts = [
        [min(step * by, length - side) for step in range(-(-(length - side) // by) + 1)]
        for length, side, by in zip(size, window, stride, strict=True)
    ]
    return [(top, left) for top in starts[0] for left in starts[1]]


def image_logits(
    network: Network, images: Tensor, *, window: Size | None = None, stride: Size | None = None
) -> Tensor:
    """Compute logits (B, num_classes, H, W) of images (B, C, H, W).

    Args:
        network: A function from images (B, C, h, w) to logits (B, num_classes, h, w).
        images: The images, (B, C, H, W).
        window: The height and width in pixels of what the network sees at a time; where windows overlap, their
            logits are averaged. An image that is smaller in a direction is one window there. ``None`` takes the
            image at once.
        stride: The vertical and horizontal distance between windows in pixels; by default two thirds of a window.

    Raises:
        ValueError: The stride would leave gaps between the windows.
    """
    if window is None:
        return network(images)
    stride = stride or (max(1, window[0] * 2 // 3), max(1, window[1] * 2 // 3))
    if min(window) < 1 or not all(1 <= by <= side for by, side in zip(stride, window, strict=True)):
        raise ValueError(f"the stride must be at least 1 and at most the window, got {stride} for {window}")
    height, width = images.shape[2:]
    rows, columns = min(window[0], height), min(window[1], width)
    total, cover = None, images.new_zeros(1, 1, height, width)
    for top, left in window_places((height, width), (rows, columns), stride):
        here = (..., slice(top, top + rows), slice(left, left + columns))
        logits = network(images[here])
        if total is None:
            total = logits.new_zeros(*logits.shape[:2], height, width)
        total[here] += logits
        cover[here] += 1
    assert total is not None  # there is always a first window
    return total / cover


@torch.no_grad()
def segment(
    network: Network, image: Tensor, *, window: Size | None = None, stride: Size | None = None
) -> Segmentation:
    """Predict the class of every pixel of one image (C, H, W), normalised, with the confidence in it.

    Args:
        network: A network in evaluation mode, from images (B, C, h, w) to logits (B, num_classes, h, w).
        image: The image, (C, H, W), normalised and on the network's device.
        window: The height and width in pixels of what the network sees at a time, see `image_logits`.
        stride: The vertical and horizontal distance between windows in pixels, see `image_logits`.
    """
    logits = image_logits(network, image[None], window=window, stride=stride)[0].float()
    confidence, classes = logits.softmax(0).max(0)
    return Segmentation(classes.cpu(), confidence.cpu())
