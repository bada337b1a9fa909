"""Feature pyramids and their layers, with convolutions or with involutions (Li et al., Involution, CVPR 2021)."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from ctxvision.nn import Involution2d

LayerKind = Literal["convolution", "involution"]


def make_fpn(
    channels: Sequence[int],
    width: int,
    kind: LayerKind,
    extra: ExtraFPNBlock | None = None,
    norm: Callable[[int], nn.Module] | None = None,
) -> FeaturePyramidNetwork:
    """Return torchvision's FPN; with ``"involution"`` its 3x3 output convolutions are 7x7 involutions.

    Args:
        channels: The number of channels of each feature map, finest first.
        width: The number of channels of the pyramid.
        kind: The kind of the output layers.
        extra: The module that makes coarser levels; by default there are none.
        norm: The function that makes a norm for after every layer of the pyramid; by default there is none.
    """
    fpn = FeaturePyramidNetwork(list(channels), width, extra_blocks=extra, norm_layer=norm)
    if kind == "involution":
        for i in range(len(channels)):
            layer: nn.Module = make_involution(width)
            fpn.layer_blocks[i] = layer if norm is None else nn.Sequential(layer, norm(width))
    return fpn


def make_involution(width: int) -> Involution2d:
    """Return a 7x7 involution whose output begins at the scale of its input.

    Its kernels begin with mean 0 and variance ``1 / 49``. With torch's default they are several times as large,
    and four of them in a mask head multiply activations by thousands.

    Args:
        width: The number of channels, a multiple of 16.
    """
    layer = Involution2d(width, kernel_size=7)
    # the generator's ReLU after a batch norm has mean square 1/2
    nn.init.normal_(layer.span.weight, std=(2 / (layer.span.in_channels * layer.kernel_size**2)) ** 0.5)
    nn.init.zeros_(layer.span.bias)  # type: ignore[arg-type]
    return layer
