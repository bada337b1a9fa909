"""Mask heads: four 3x3 convolutions, or four 7x7 involutions ("head" in Involution), then upsampling."""

from collections.abc import Callable

from torch import nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from ctxvision.tasks.pyramid import LayerKind, make_involution

from .precision import in_full_precision


def make_mask_head(width: int, kind: LayerKind, norm: Callable[[int], nn.Module] | None = None) -> nn.Sequential:
    """Return four layers over RoI features ``(N, width, 14, 14)``, whose shape they keep.

    Args:
        width: The number of channels of the pyramid and of every layer.
        kind: The kind of the layers, convolutions or involutions.
        norm: The function that makes a norm for after every layer; by default there is none.
    """
    if kind == "convolution":
        head: nn.Sequential = MaskRCNNHeads(width, (width,) * 4, dilation=1, norm_layer=norm)
        return head
    layers = []
    for _ in range(4):
        between = [] if norm is None else [norm(width)]
        layers.append(nn.Sequential(make_involution(width), *between, nn.ReLU(inplace=True)))
    return nn.Sequential(*layers)


def make_mask_predictor(width: int, num_classes: int) -> MaskRCNNPredictor:
    """Return torchvision's predictor, from ``(N, width, 14, 14)`` to logits ``(N, 1 + num_classes, 28, 28)``."""
    return in_full_precision(MaskRCNNPredictor(width, width, 1 + num_classes))
