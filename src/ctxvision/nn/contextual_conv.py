"""Contextual convolution: kernel offsets and sampling offsets made from the features and the contextual prior."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from ctxvision.ops import contextual_conv2d
from ctxvision.ops._derivatives import add_in_place
from ctxvision.ops._exporting import sizes_as_numbers

from . import _pointwise
from ._checks import NormKind, refuse_scripting, require_norm, require_positive, vector_norm
from ._folding import FoldsNormByKernel
from ._tracing import is_traced


class WeightOffsets(nn.Module):
    """Generator of the weight offsets ``Δw``, ``GAP(x) ‖ prior -> Linear -> norm -> ReLU -> Linear``.

    It makes one kernel of offsets per image and input channel (Contextual CNN, section 3.3). The last layer starts
    at zero.

    Args:
        channels: Number of channels of ``x``.
        kernel_size: Side ``k`` of the kernel that the offsets are added to, in pixels.
        prior_dim: Width ``d`` of the prior; 0 for none.
        hidden: Width between the two linear layers.
        norm: Norm between them, ``"layer"`` as in the paper, or ``"batch"`` as in the authors' ResNets.
        device: Device of the parameters and buffers, as for torch's own layers.
        dtype: Floating-point type of the parameters and buffers, as for torch's own layers.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int,
        prior_dim: int,
        hidden: int,
        norm: NormKind = "layer",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        placed: dict[str, Any] = {"device": device, "dtype": dtype}
        self.kernel_size = kernel_size
        self.fc1 = nn.Linear(channels + prior_dim, hidden, **placed)
        self.norm = vector_norm(norm, hidden, **placed)
        self.fc2 = nn.Linear(hidden, channels * kernel_size**2, **placed)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, x: Tensor, prior: Tensor | None) -> Tensor:
        """Return ``Δw``, ``(B, C, k, k)``, for features ``x``, ``(B, C, H, W)``, and the prior, ``(B, d)``."""
        pooled = x.mean((2, 3))
        features = pooled if prior is None else torch.cat([pooled, prior], 1)
        offsets: Tensor = self.fc2(F.relu(self.norm(self.fc1(features))))
        return offsets.reshape(-1, x.shape[1], self.kernel_size, self.kernel_size)


class SamplingOffsets(nn.Module):
    """Generator of the sampling offsets ``Δp``, ``x ‖ prior -> conv1x1 -> norm -> ReLU -> conv k x k``.

    It makes one offset per tap and output position (Contextual CNN, section 3.3). The prior is the same at every
    position, so its part of the 1x1 convolution is evaluated once per image and added, which equals expanding and
    concatenating it. The last layer starts at zero.

    Args:
        channels: Number of channels of ``x``.
        kernel_size: Side ``k`` of the kernel of the convolution that the offsets are for, in pixels.
        stride: Stride of that convolution, in pixels.
        padding: Zero padding of that convolution on each side, in pixels.
        dilation: Distance between the taps of that convolution, in pixels.
        prior_dim: Width ``d`` of the prior; 0 for none.
        modulation: Whether a modulation mask per tap is returned as well (Deformable ConvNets v2).
        hidden: Width between the two convolutions, of which the second is dense then, as in the authors' code;
            with ``None`` it is depthwise, and the width is the number of maps that it returns.
        norm: Norm between them, ``"layer"`` as in the paper, or ``"batch"`` as in the authors' ResNets.
        device: Device of the parameters and buffers, as for torch's own layers.
        dtype: Floating-point type of the parameters and buffers, as for torch's own layers.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int,
        stride: int,
        padding: int,
        dilation: int,
        prior_dim: int,
        modulation: bool,
        hidden: int | None = None,
        norm: NormKind = "layer",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        placed: dict[str, Any] = {"device": device, "dtype": dtype}
        self.coordinates = 2 * kernel_size**2
        maps = self.coordinates + (kernel_size**2 if modulation else 0)
        width, groups = (maps, maps) if hidden is None else (hidden, 1)
        self.modulation = modulation
        self.conv1 = nn.Conv2d(channels, width, 1, **placed)
        self.prior = nn.Linear(prior_dim, width, bias=False, **placed) if prior_dim else None
        layer_norm = norm == "layer"
        self.norm = LayerNorm2d(width).to(**placed) if layer_norm else nn.BatchNorm2d(width, **placed)
        self.conv2 = nn.Conv2d(width, maps, kernel_size, stride, padding, dilation, groups, **placed)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, prior: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return ``Δp`` in pixels, ``(B, 2 * k * k, H', W')``, and the mask, ``(B, k * k, H', W')``, or ``None``.

        Args:
            x: Features, ``(B, C, H, W)``.
            prior: Contextual prior, ``(B, d)``; ``None`` if the generator was built without one.
        """
        hidden = _pointwise.apply(self.conv1, x)
        if self.prior is not None:
            hidden = add_in_place(hidden, self.prior(prior)[:, :, None, None])
        maps: Tensor = self.conv2(F.relu(self.norm(hidden), inplace=True))
        if not self.modulation:
            return maps, None
        return maps[:, : self.coordinates], 2 * torch.sigmoid(maps[:, self.coordinates :])


class ContextualConv2d(FoldsNormByKernel):
    """Convolution whose kernel and sampling grid are modulated by features and a contextual prior.

    Source: Liang et al., Contextual Convolutional Networks, ICLR 2023, section 3.3, equation 4. At
    initialisation both offsets are zero (and the mask one): the layer equals ``nn.Conv2d`` with its weights.

    Args:
        in_channels: Number of channels of the input.
        out_channels: Number of channels of the output.
        kernel_size: Side ``k`` of the kernel, in pixels.
        stride: Step between output positions, in pixels.
        padding: Number of zeros on each side, in pixels.
        dilation: Distance between taps, in pixels.
        groups: Number of channel groups; with ``groups == in_channels`` the layer is depthwise.
        bias: Whether a bias is added.
        prior_dim: Width ``d`` of the contextual prior; 0 builds the layer without one (Table 4, a3).
        weight_hidden: Width inside the generator of weight offsets; ``None`` for no weight offsets (Table 5, b3).
        sampling: Whether sampling offsets are generated (the ablation without them is Table 5, b2).
        modulation: Whether a modulation mask is generated as well (DCNv2; the authors' code, not the paper).
        sampling_hidden: Width inside the generator of sampling offsets, whose last convolution is dense then, as
            in the authors' code; ``None`` for one that is depthwise.
        norm: Norm inside the generators, ``"layer"`` as in the paper, or ``"batch"`` as in the authors' ResNets.
        device: Device of the parameters and buffers, as for torch's own layers.
        dtype: Floating-point type of the parameters and buffers, as for torch's own layers.

    Shape:
        ``x`` ``(B, C, H, W)`` and ``prior`` ``(B, d)`` to ``(B, O, H', W')``, sizes as ``nn.Conv2d``.

    Raises:
        ValueError: If a prior is missing, unexpected or of the wrong width, or modulation lacks sampling.

    Examples:
        >>> import torch
        >>> from ctxvision.nn import ContextualConv2d
        >>> conv = ContextualConv2d(32, 32, kernel_size=7, padding=3, groups=32, prior_dim=16, weight_hidden=8)
        >>> conv(torch.randn(2, 32, 14, 14), torch.randn(2, 16)).shape
        torch.Size([2, 32, 14, 14])
    """

    __prepare_scriptable__ = refuse_scripting
    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        prior_dim: int = 256,
        weight_hidden: int | None = 16,
        sampling: bool = True,
        modulation: bool = False,
        sampling_hidden: int | None = None,
        norm: NormKind = "layer",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        placed: dict[str, Any] = {"device": device, "dtype": dtype}
        require_positive("ContextualConv2d", kernel_size=kernel_size, stride=stride, dilation=dilation)
        if weight_hidden is not None:
            require_positive("ContextualConv2d", weight_hidden=weight_hidden)
        if sampling_hidden is not None:
            require_positive("ContextualConv2d", sampling_hidden=sampling_hidden)
        require_norm("ContextualConv2d", norm)
        if modulation and not sampling:
            raise ValueError("ContextualConv2d: modulation=True needs sampling=True, it weighs the sampled taps")
        plain = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, **placed
        )
        self.weight = plain.weight  # type: ignore[assignment]
        self.register_parameter("bias", plain.bias)  # type: ignore[arg-type]
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.prior_dim = prior_dim
        self.weight_offsets = (
            None
            if weight_hidden is None
            else WeightOffsets(
                in_channels,
                kernel_size=kernel_size,
                prior_dim=prior_dim,
                hidden=weight_hidden,
                norm=norm,
                **placed,
            )
        )
        self.sampling_offsets = (
            SamplingOffsets(
                in_channels,
                kernel_size=kernel_size,
                stride=stride,
                padding=padding,
                dilation=dilation,
                prior_dim=prior_dim,
                modulation=modulation,
                hidden=sampling_hidden,
                norm=norm,
                **placed,
            )
            if sampling
            else None
        )

    def offsets(
        self, x: Tensor, prior: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the weight offset, the sampling offset and the mask; ``None`` for those that are not generated.

        Args:
            x: Features, ``(B, C, H, W)``.
            prior: Contextual prior, ``(B, d)``; ``None`` if the layer was built without one.

        Returns:
            The weight offset ``Δw``, ``(B, C, k, k)``, the sampling offset ``Δp`` in pixels, ``(B, 2 * k * k, H',
            W')``, and the mask, ``(B, k * k, H', W')``.

        Raises:
            ValueError: If a prior is missing, unexpected or of the wrong shape.
        """
        if not is_traced(x):
            with sizes_as_numbers():
                self._check_prior(x, prior)
        weight_offset = None if self.weight_offsets is None else self.weight_offsets(x, prior)
        if self.sampling_offsets is None:
            return weight_offset, None, None
        sampling_offset, mask = self.sampling_offsets(x, prior)
        return weight_offset, sampling_offset, mask

    def _check_prior(self, x: Tensor, prior: Tensor | None) -> None:
        shape = (x.shape[0], self.prior_dim) if self.prior_dim else None
        got = None if prior is None else tuple(prior.shape)
        if got != shape:
            raise ValueError(
                f"ContextualConv2d: prior must be (B, prior_dim) = {shape} for x {tuple(x.shape)}, got {got}"
            )

    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        """Return ``x``, ``(B, C, H, W)``, convolved under the prior, ``(B, d)``, as ``(B, O, H', W')``."""
        weight_offset, sampling_offset, mask = self.offsets(x, prior)
        y = contextual_conv2d(
            x, self.weight, sampling_offset, weight_offset, mask, self.bias,
            stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups,
        )  # fmt: skip
        return self.with_norm(y)

    def extra_repr(self) -> str:
        """Return what ``nn.Conv2d`` prints, and the width of the prior."""
        out_channels, group_channels, *kernel = self.weight.shape
        return (
            f"{group_channels * self.groups}, {out_channels}, kernel_size={tuple(kernel)}, stride={self.stride}, "
            f"padding={self.padding}, groups={self.groups}, prior_dim={self.prior_dim}"
        )
