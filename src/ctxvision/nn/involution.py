"""Involution: a convolution whose kernel depends on the position and is shared by the channels of a group."""

from typing import Any

import torch
from torch import Tensor, nn

from ctxvision.ops import local_aggregation

from . import _steps
from ._checks import refuse_scripting, require_odd_kernel, require_positive
from ._folding import FoldsNormByUnits


class Involution2d(FoldsNormByUnits):
    """Generate a kernel at each position from the features there, and aggregate with it.

    Source: Li et al., Involution, CVPR 2021. Every output position gets its own ``k x k`` kernel per group
    of ``group_channels`` channels, made by ``conv1x1 -> BN -> ReLU -> conv1x1`` from ``x``; groups are blocked.

    With ``stride > 1`` the kernel generator reads an average pool of ``x`` over ``stride x stride`` windows.
    The pool rounds up, so that its size is exactly the convolution formula's ``(H - 1) // stride + 1`` at any
    ``H``: an incomplete window at the border averages the pixels that it has. (The published CUDA kernel pairs
    a pool that rounds down with the convolution's size and reads outside its weights when ``H`` is odd.)

    Args:
        channels: Number of channels in and out, a multiple of ``group_channels``.
        kernel_size: Odd side ``k`` of the aggregated neighbourhood in pixels; the padding keeps the size.
        stride: Step between output positions, in pixels.
        dilation: Distance between taps, in pixels.
        group_channels: Number of channels that share a kernel.
        reduction: Factor by which the kernel generator reduces the number of channels.
        device: Device of the parameters and buffers, as for torch's own layers.
        dtype: Floating-point type of the parameters and buffers, as for torch's own layers.

    Shape:
        ``(B, C, H, W)`` to ``(B, C, ceil(H / stride), ceil(W / stride))``.

    Raises:
        ValueError: If ``channels`` does not divide as needed or ``kernel_size`` is even.

    Examples:
        >>> import torch
        >>> from ctxvision.nn import Involution2d
        >>> Involution2d(64, kernel_size=7, stride=2)(torch.randn(2, 64, 15, 15)).shape
        torch.Size([2, 64, 8, 8])
    """

    __prepare_scriptable__ = refuse_scripting

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 7,
        stride: int = 1,
        dilation: int = 1,
        group_channels: int = 16,
        reduction: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        placed: dict[str, Any] = {"device": device, "dtype": dtype}
        require_positive(
            "Involution2d", channels=channels, stride=stride, dilation=dilation, group_channels=group_channels,
            reduction=reduction,
        )  # fmt: skip
        require_odd_kernel("Involution2d", kernel_size)
        if channels % group_channels or channels % reduction:
            raise ValueError(
                f"Involution2d: channels {channels} must be a multiple of group_channels {group_channels} "
                f"and of reduction {reduction}"
            )
        self.kernel_size, self.stride, self.dilation = kernel_size, stride, dilation
        self.out_channels, self.groups = channels, channels // group_channels
        hidden = channels // reduction
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False, **placed),
            nn.BatchNorm2d(hidden, **placed),
            nn.ReLU(inplace=True),
        )
        self.span = nn.Conv2d(hidden, kernel_size**2 * self.groups, 1, **placed)

    def kernels(self, x: Tensor) -> Tensor:
        """Return the generated kernels, ``(B, G, k * k, H', W')``, of features ``x``, ``(B, C, H, W)``."""
        maps = _steps.apply(x, self.pool, self.reduce, self.span)
        kernels: Tensor = maps.unflatten(1, (self.groups, self.kernel_size**2))
        return kernels

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``, ``(B, C, H, W)``, aggregated with its own kernels, ``(B, C, H', W')``."""
        y = local_aggregation(x, self.kernels(x), stride=self.stride, dilation=self.dilation)
        return self.with_norm(y)
