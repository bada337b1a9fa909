"""The Contextual Transformer (CoT) layer: static context from a convolution, dynamic context from attention."""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ctxvision.ops import local_aggregation
from ctxvision.ops._derivatives import add_in_place, transforms_active
from ctxvision.ops._exporting import standard_operators
from ctxvision.ops._geometry import is_channels_last

from . import _cot_inference, _pointwise, _steps
from ._checks import is_plain, refuse_scripting, require_odd_kernel, require_positive
from ._folding import FoldsNormByUnits
from ._tracing import is_traced

Context = Literal["full", "static", "dynamic", "linear"]
SHARE = 8  # channels that share an attention map, interleaved


class CoTLayer(FoldsNormByUnits):
    """Contextual Transformer layer (Li et al., CoTNet, 2021, section 3.2), a drop-in for a 3x3 convolution.

    1. static context ``K1 = ReLU(BN(conv k x k))``;
    2. attention ``A = GroupNorm(conv1x1(ReLU(BN(conv1x1([x, K1])))))``, equation 4;
    3. dynamic context ``K2 = SiLU(BN(V * A))`` with ``V = BN(conv1x1(x))``, equation 5;
    4. output ``K2 · α0 + K1 · α1``, where a softmax over the two is computed per channel from ``GAP(K1 + K2)``.

    Parameter names are those of the published checkpoints. The fusion normalises pooled features over the batch,
    so that training needs at least two images, as BatchNorm over single values does.

    Args:
        channels: Number of channels in and out, a multiple of 8 and of ``key_groups``.
        kernel_size: Odd side ``k`` of the neighbourhood of both contexts, in pixels.
        dilation: Distance between the taps of both contexts, in pixels.
        key_groups: Number of groups of the static context's convolution, 4, in CoTNeXt 8.
        groups: Number of groups of the three 1x1 convolutions before the fusion, 1, in CoTNeXt 2. With 2, ``x``
            and ``K1`` are interleaved channel by channel, and each half of the channels has its own maps.
        context: Choice of the contexts: ``"full"`` fuses both. The ablations of Table 5 are ``"static"`` (only
            ``K1``), ``"dynamic"`` (only ``K2``) and ``"linear"`` (``K1 + K2``).
        device: Device of the parameters and buffers, as for torch's own layers.
        dtype: Floating-point type of the parameters and buffers, as for torch's own layers.

    Shape:
        ``(B, C, H, W)`` to ``(B, C, H, W)``.

    Raises:
        ValueError: If ``channels`` does not divide as needed or ``context`` is unknown.

    Examples:
        >>> import torch
        >>> from ctxvision.nn import CoTLayer
        >>> CoTLayer(64)(torch.randn(2, 64, 14, 14)).shape
        torch.Size([2, 64, 14, 14])
    """

    __prepare_scriptable__ = refuse_scripting

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 3,
        dilation: int = 1,
        key_groups: int = 4,
        groups: int = 1,
        context: Context = "full",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        placed: dict[str, Any] = {"device": device, "dtype": dtype}
        require_positive("CoTLayer", channels=channels, dilation=dilation, key_groups=key_groups, groups=groups)
        require_odd_kernel("CoTLayer", kernel_size)
        if channels % (SHARE * groups) or channels % key_groups:
            raise ValueError(
                f"CoTLayer: channels {channels} must be a multiple of {SHARE} * groups = {SHARE * groups} "
                f"and of key_groups {key_groups}"
            )
        if context not in ("full", "static", "dynamic", "linear"):
            raise ValueError(f"CoTLayer: context must be full, static, dynamic or linear, got {context!r}")
        self.kernel_size, self.dilation, self.groups, self.context = kernel_size, dilation, groups, context
        self.out_channels, self.maps = channels, channels // SHARE
        taps, same = kernel_size**2, dilation * (kernel_size - 1) // 2
        self.key_embed = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size, 1, same, dilation, key_groups, bias=False, **placed),
            nn.BatchNorm2d(channels, **placed),
            nn.ReLU(inplace=True),
        )
        if context != "static":
            self.embed = nn.Sequential(
                nn.Conv2d(2 * channels, channels // 2, 1, groups=groups, bias=False, **placed),
                nn.BatchNorm2d(channels // 2, **placed),
                nn.ReLU(inplace=True),
                nn.Conv2d(channels // 2, taps * self.maps, 1, groups=groups, **placed),
                nn.GroupNorm(self.maps, taps * self.maps, **placed),
            )
            self.conv1x1 = nn.Sequential(
                nn.Conv2d(channels, channels, 1, groups=groups, bias=False, **placed),
                nn.BatchNorm2d(channels, **placed),
            )
            self.bn = nn.BatchNorm2d(channels, **placed)
            self.act = nn.SiLU(inplace=True)
        if context == "full":
            hidden = max(channels // 2, 32)
            self.se = nn.Sequential(
                nn.Conv2d(channels, hidden, 1, **placed),
                nn.BatchNorm2d(hidden, **placed),
                nn.ReLU(inplace=True),
                nn.Conv2d(hidden, 2 * channels, 1, **placed),
            )

    def attention(self, x: Tensor, static: Tensor) -> Tensor:
        """Return the attention maps, ``(B, C / 8, k * k, H, W)`` (equation 4).

        Args:
            x: Features, ``(B, C, H, W)``.
            static: Static context ``K1``, ``(B, C, H, W)``.
        """
        return self._normed_maps(self.raw_maps(x, static))

    def dynamic_context(self, x: Tensor, static: Tensor) -> Tensor:
        """Return the dynamic context ``K2``, ``(B, C, H, W)`` (equation 5).

        Args:
            x: Features, ``(B, C, H, W)``.
            static: Static context ``K1``, ``(B, C, H, W)``.
        """
        dynamic: Tensor = self.act(self._normed_dynamic_context(x, static))
        return dynamic

    def fusion(self, static: Tensor, dynamic: Tensor) -> Tensor:
        """Return the shares ``α`` of the dynamic and the static context per image and channel, ``(B, C, 2)``.

        Args:
            static: Static context ``K1``, ``(B, C, H, W)``.
            dynamic: Dynamic context ``K2``, ``(B, C, H, W)``.
        """
        pooled = dynamic.mean((2, 3), keepdim=True) + static.mean((2, 3), keepdim=True)
        pair = _steps.apply(pooled, self.se).reshape(-1, self.maps * SHARE, 2)
        return pair.softmax(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the fused context, ``(B, C, H, W)``, of features ``x`` of the same shape."""
        return self.with_norm(self._fused_context(x))

    def _fused_context(self, x: Tensor) -> Tensor:
        static = _steps.apply(x, self.key_embed)
        parts = _cot_inference.parts_of(self, x) if type(self) is CoTLayer else None
        if parts is not None:
            return _cot_inference.fused_context(self, parts, x, static)
        if self.context == "static":
            return static
        if self.context == "dynamic":
            return self.dynamic_context(x, static)
        if self.context == "linear":
            return static + self.dynamic_context(x, static)
        if not _saves(static):
            dynamic = self.dynamic_context(x, static)
            return _blend(static, dynamic, self.fusion(static, dynamic))
        normed = self._normed_dynamic_context(x, static)
        shares = self.fusion(static, self._activated(normed))
        return _recomputed(lambda a, b, c: _blend(a, self._activated(b), c), static, normed, shares)

    def _activated(self, normed: Tensor) -> Tensor:
        """Return ``K2`` beside its argument, which the backward pass needs; `act` may work in place."""
        if is_plain(self.act, nn.SiLU):
            return F.silu(normed)
        activated: Tensor = self.act(normed.clone())
        return activated

    def embedded_halves(self, x: Tensor, static: Tensor) -> tuple[Tensor, Tensor]:
        """Return what ``x`` and ``K1`` add to the embedding of both, each ``(B, C / 2, H, W)``.

        So ``[x, K1]`` is never put together.
        """
        first: nn.Conv2d = self.embed[0]  # type: ignore[assignment]
        weight = first.weight
        halves = weight.chunk(2, 1) if self.groups == 1 else (weight[:, ::2], weight[:, 1::2])
        of_x = F.conv2d(x, halves[0], first.bias, groups=self.groups)
        return of_x, F.conv2d(static, halves[1], groups=self.groups)

    def raw_maps(self, x: Tensor, static: Tensor) -> Tensor:
        """Return the attention maps before their GroupNorm, ``(B, k * k * C / 8, H, W)``."""
        first: nn.Conv2d = self.embed[0]  # type: ignore[assignment]
        if is_plain(first, nn.Conv2d) and not is_traced(x):
            hidden = add_in_place(*self.embedded_halves(x, static))
        else:  # whoever traced, hooked or replaced the convolution wants it called
            both = torch.cat([x, static], 1) if self.groups == 1 else torch.stack([x, static], 2).flatten(1, 2)
            hidden = first(both)
        return _pointwise.apply(self.embed[3], self.embed[2](self.embed[1](hidden)))

    def _normed_maps(self, raw: Tensor) -> Tensor:
        maps: Tensor = self.embed[4](raw).unflatten(1, (self.maps, self.kernel_size**2))
        return maps

    def _normed_dynamic_context(self, x: Tensor, static: Tensor) -> Tensor:
        """Return ``K2`` before its SiLU."""
        raw, values = self.raw_maps(x, static), _steps.apply(x, self.conv1x1)
        norm: nn.GroupNorm = self.embed[4]  # type: ignore[assignment]
        if is_plain(norm, nn.GroupNorm):
            # its parameters are arguments: the backward pass has to compute with those of the forward pass
            aggregated = _recomputed(self._aggregate_raw, raw, values, norm.weight, norm.bias)
        else:
            aggregated = self._aggregate(self._normed_maps(raw), values)
        normed: Tensor = self.bn(aggregated)
        return normed

    def _aggregate_raw(self, raw: Tensor, values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Norm the maps by these parameters and aggregate."""
        norm: nn.GroupNorm = self.embed[4]  # type: ignore[assignment]
        if _pointwise.may_choose(raw):  # torch's kernel takes up to five times as long in bfloat16 as in float32
            raw, kind = raw.float(), raw.dtype
            maps = F.group_norm(raw, norm.num_groups, weight.float(), bias.float(), norm.eps).to(kind)
        else:
            maps = F.group_norm(raw, norm.num_groups, weight, bias, norm.eps)
        return self._aggregate(maps.unflatten(1, (self.maps, self.kernel_size**2)), values)

    def _aggregate(self, maps: Tensor, values: Tensor) -> Tensor:
        """Return the values aggregated with the normed maps, ``(B, C, H, W)``."""
        if self.groups == 1:
            return local_aggregation(values, maps, dilation=self.dilation, grouping="interleaved")
        # Interleaving stays inside a group of channels: fold the groups into the batch, or where that would copy,
        # pixel by pixel into the width, in which neighbours of the same group are then `groups` apart.
        if is_traced(values) or not is_channels_last(values):
            values, maps = (t.unflatten(1, (self.groups, -1)).flatten(0, 1) for t in (values, maps))
            aggregated = local_aggregation(values, maps, dilation=self.dilation, grouping="interleaved")
            result: Tensor = aggregated.unflatten(0, (-1, self.groups)).flatten(1, 2)
            return result
        values, maps = _groups_into_width(values, self.groups), _groups_into_width(maps, self.groups)
        spread = (self.dilation, self.dilation * self.groups)
        aggregated = local_aggregation(values, maps, dilation=spread, grouping="interleaved")
        pixels: Tensor = aggregated.permute(0, 2, 3, 1).unflatten(2, (-1, self.groups)).flatten(3)
        return pixels.permute(0, 3, 1, 2)


def _groups_into_width(x: Tensor, groups: int) -> Tensor:
    """View channels-last ``(B, g · c, ..., H, W)`` as ``(B, c, ..., H, W · g)``."""
    order = (0, x.dim() - 2, x.dim() - 1, *range(1, x.dim() - 2))  # (B, H, W, g · c, ...)
    pixels: Tensor = x.permute(order).unflatten(3, (groups, -1)).flatten(2, 3)
    return pixels.movedim((1, 2), (-2, -1))


def _saves(*tensors: Tensor) -> bool:
    """Whether what these make is kept for a backward pass.

    Not by a graph that is being recorded: it is one, whatever the mode, and `torch.jit.trace` traces with
    gradients and checks without them.
    """
    return torch.is_grad_enabled() and not (standard_operators() or any(map(is_traced, tensors)))


def _recomputed(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Call a cheap function and store nothing inside it: the backward pass computes it again.

    Transforms of `torch.func` do not allow that, and a graph that is traced has no use for it.

    Raises:
        RuntimeError: In the backward pass, if one of the tensors was changed in place since, as torch does.
    """
    # a compiler decides that itself
    if not _saves(*tensors) or torch.compiler.is_compiling() or transforms_active():
        return function(*tensors)
    versions = [tensor._version for tensor in tensors]

    def unchanged(*tensors: Tensor) -> Tensor:
        if [tensor._version for tensor in tensors] != versions:
            raise RuntimeError(
                "CoTLayer: a tensor needed for the gradient has been modified by an inplace operation"
            )
        return function(*tensors)

    result: Tensor = checkpoint(unchanged, *tensors, use_reentrant=False, preserve_rng_state=False)
    return result


def _blend(static: Tensor, dynamic: Tensor, shares: Tensor) -> Tensor:
    """Return ``dynamic · α0 + static · α1``, ``(B, C, H, W)``.

    The shares ``(B, C, 2)`` add up to one, so that the blend is a linear interpolation by the first.
    """
    # autocast keeps a softmax in float32; contiguous, because it is read at every pixel
    first = shares[..., 0].to(static.dtype).contiguous()[..., None, None]
    return torch.lerp(static, dynamic, first)
