"""Involution where no norm follows: in necks and heads."""

from typing import Literal

from torch import nn

from ctxvision.nn import Involution2d

LayerKind = Literal["conv", "involution"]


def make_involution(width: int) -> Involution2d:
    """Return a 7x7 involution whose output begins at the scale of its input.

    Its kernels begin with mean 0 and variance ``1 / 49``. With torch's default they are several times as large,
    and four of them in a mask head multiply activations by thousands.

    Args:
        width: channels, a multiple of 16.
    """
    layer = Involution2d(width, kernel_size=7)
    # the generator's ReLU after a batch norm has mean square 1/2
    nn.init.normal_(layer.span.weight, std=(2 / (layer.span.in_channels * layer.kernel_size**2)) ** 0.5)
    nn.init.zeros_(layer.span.bias)  # type: ignore[arg-type]
    return layer
