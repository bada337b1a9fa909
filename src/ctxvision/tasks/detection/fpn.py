"""Feature pyramids, with convolutions or with involutions (Li et al., Involution, CVPR 2021, "neck")."""

from collections.abc import Callable, Sequence

from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from .involution import LayerKind, make_involution


def make_fpn(
    channels: Sequence[int],
    width: int,
    kind: LayerKind,
    extra: ExtraFPNBlock,
    norm: Callable[[int], nn.Module] | None = None,
) -> FeaturePyramidNetwork:
    """Return torchvision's FPN; with ``"involution"`` its 3x3 output convolutions are 7x7 involutions.

    Args:
        channels: of the feature maps, finest first.
        width: channels of the pyramid.
        kind: of the output layers.
        extra: makes coarser levels.
        norm: after every layer of the pyramid; none by default.
    """
    fpn = FeaturePyramidNetwork(list(channels), width, extra_blocks=extra, norm_layer=norm)
    if kind == "involution":
        for i in range(len(channels)):
            layer: nn.Module = make_involution(width)
            fpn.layer_blocks[i] = layer if norm is None else nn.Sequential(layer, norm(width))
    return fpn
