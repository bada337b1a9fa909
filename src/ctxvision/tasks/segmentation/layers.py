"""The one building block of both decoders: convolution, norm, ReLU."""

from functools import partial
from typing import Literal, cast

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

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
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(nn.Dropout2d(dropout), conv)
