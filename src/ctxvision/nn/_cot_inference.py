"""A CoT layer in inference on a CPU: convolutions, and one call for all between and behind them."""

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ctxvision.ops.inference import cpu

from . import _pointwise
from ._checks import is_plain
from ._steps import fixed_norm, is_idle

if TYPE_CHECKING:
    from .cot import CoTLayer


def computes(layer: "CoTLayer", x: Tensor, static: Tensor) -> bool:
    """Whether `fused_context` may compute: the layer's parts are as they were built, and nobody looks on.

    Args:
        layer: The layer.
        x: Features, ``(B, C, H, W)``.
        static: Static context, ``(B, C, H, W)``.
    """
    return (
        layer.context == "full"
        and _pointwise.may_choose(x)
        and cpu.computes(x)
        and cpu.computes(static)
        and all(is_plain(group, nn.Sequential) for group in (layer.embed, layer.conv1x1, layer.se))
        and (len(layer.embed), len(layer.conv1x1), len(layer.se)) == (5, 2, 4)
        and all(is_plain(conv, nn.Conv2d) for conv in _convolutions(layer))
        and all(fixed_norm(norm) or is_idle(norm) for norm in _norms(layer))
        and is_plain(layer.embed[4], nn.GroupNorm)
        and all(is_plain(act, nn.ReLU) for act in (layer.embed[2], layer.se[2]))
        and is_plain(layer.act, nn.SiLU)
        and cpu.can_read(x, *_convolutions(layer), *_norms(layer), layer.embed[4])
    )


def fused_context(layer: "CoTLayer", x: Tensor, static: Tensor) -> Tensor:
    """Return the fused context, ``(B, C, H, W)``, up to rounding what the layer's parts make one after the other.

    Args:
        layer: The layer.
        x: Features, ``(B, C, H, W)``.
        static: Static context, ``(B, C, H, W)``.
    """
    embed: Any = layer.embed
    hidden_layer, fusion_norm, _, pair = cast(Any, layer.se)
    hidden, of_static = map(_channels_last, layer.embedded_halves(x, static))
    cpu.norm_activation(hidden, _norm(embed[1]), "relu", before=of_static, after=None)
    raw = _channels_last(_pointwise.computed(embed[3], hidden))
    values = _channels_last(_pointwise.computed(layer.conv1x1[0], x))
    layers = cpu.ContextLayers(
        embed[4], _norm(layer.conv1x1[1]), _norm(layer.bn), hidden_layer, _norm(fusion_norm), pair
    )
    return cpu.cot_context(
        raw, values, static, layers, kernel=layer.kernel_size, dilation=layer.dilation, groups=layer.groups
    )


def _convolutions(layer: "CoTLayer") -> tuple[nn.Module, ...]:
    return layer.embed[0], layer.embed[3], layer.conv1x1[0], layer.se[0], layer.se[3]


def _norms(layer: "CoTLayer") -> tuple[nn.Module, ...]:
    return layer.embed[1], layer.conv1x1[1], layer.bn, layer.se[1]


def _norm(layer: nn.Module) -> nn.BatchNorm2d | None:
    return layer if isinstance(layer, nn.BatchNorm2d) else None


def _channels_last(x: Tensor) -> Tensor:
    """Return an image in the kernels' memory format; small convolutions return another one."""
    return x.contiguous(memory_format=torch.channels_last)
