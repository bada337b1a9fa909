"""The head of the region proposal network, with a convolution or with an involution ("head" in Involution)."""

from torch import nn
from torchvision.models.detection.rpn import RPNHead

from ctxvision.tasks.pyramid import LayerKind, make_involution

from .precision import in_full_precision


def make_rpn_head(width: int, anchors: int, kind: LayerKind) -> RPNHead:
    """Return torchvision's head; with ``"involution"`` its 3x3 convolution is a 7x7 involution.

    Args:
        width: The number of channels of the pyramid.
        anchors: The number of anchors per position.
        kind: The kind of the layer before the predictions.
    """
    head = RPNHead(width, anchors)
    if kind == "involution":
        head.conv = nn.Sequential(make_involution(width), nn.ReLU(inplace=True))
    return in_full_precision(head)
