"""Split attention of radix 1: a convolution whose output channels are weighed by what the image holds."""

from typing import Any

import torch
from timm.layers import make_divisible
from torch import Tensor, nn

from . import _steps
from ._checks import refuse_scripting, require_odd_kernel, require_positive
from ._folding import FoldsNormByUnits


class SplitAttention2d(FoldsNormByUnits):
    """``conv k x k -> BN -> SiLU``, times a gate per image and channel.

    The gate is ``GAP -> conv1x1 -> BN -> SiLU -> conv1x1 -> sigmoid``. Source: Zhang et al., ResNeSt, 2020, with
    radix 1, as SE-CoTNetD uses it. Parameter names are those of the published checkpoints and of timm's
    ``SplitAttn``; unlike that layer, this one keeps the memory format. Training needs at least two images, as
    BatchNorm over single values does.

    Args:
        channels: Number of channels in and out, a multiple of ``groups``.
        kernel_size: Odd side of the convolution's kernel in pixels; the padding keeps the size.
        stride: Stride of the convolution, in pixels.
        dilation: Distance between the convolution's taps, in pixels.
        groups: Number of groups of all three convolutions.
        device: Device of the parameters and buffers, as for torch's own layers.
        dtype: Floating-point type of the parameters and buffers, as for torch's own layers.

    Shape:
        ``(B, C, H, W)`` to ``(B, C, ceil(H / stride), ceil(W / stride))``.

    Raises:
        ValueError: If ``channels`` does not divide as needed or ``kernel_size`` is even.

    Examples:
        >>> import torch
        >>> from ctxvision.nn import SplitAttention2d
        >>> SplitAttention2d(64, stride=2)(torch.randn(2, 64, 15, 15)).shape
        torch.Size([2, 64, 8, 8])
    """

    __prepare_scriptable__ = refuse_scripting

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        placed: dict[str, Any] = {"device": device, "dtype": dtype}
        require_positive("SplitAttention2d", channels=channels, stride=stride, dilation=dilation, groups=groups)
        require_odd_kernel("SplitAttention2d", kernel_size)
        hidden = make_divisible(channels * 0.25, divisor=8, min_value=32)
        if channels % groups or hidden % groups:
            raise ValueError(
                f"SplitAttention2d: channels {channels} and {hidden} must be multiples of groups {groups}"
            )
        self.out_channels = channels
        same = dilation * (kernel_size - 1) // 2
        self.conv = nn.Conv2d(
            channels, channels, kernel_size, stride, same, dilation, groups, bias=False, **placed
        )
        self.bn0 = nn.BatchNorm2d(channels, **placed)
        self.act0 = nn.SiLU(inplace=True)
        self.fc1 = nn.Conv2d(channels, hidden, 1, groups=groups, **placed)
        self.bn1 = nn.BatchNorm2d(hidden, **placed)
        self.act1 = nn.SiLU(inplace=True)
        self.fc2 = nn.Conv2d(hidden, channels, 1, groups=groups, **placed)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated features, ``(B, C, ceil(H / stride), ceil(W / stride))``, of ``(B, C, H, W)``."""
        x = _steps.apply(x, self.conv, self.bn0, self.act0)
        gate = _steps.apply(x.mean((2, 3), keepdim=True), self.fc1, self.bn1, self.act1, self.fc2)
        return self.with_norm(x * gate.sigmoid())
