"""A CoT layer in inference on a CPU: convolutions, and one call for all between and behind them."""

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ctxvision.ops._geometry import is_channels_last
from ctxvision.ops.inference import cpu, op

from . import _pointwise
from ._checks import is_plain
from ._steps import fixed_norm, is_idle

if TYPE_CHECKING:
    from .cot import CoTLayer

_STEPS = ("attention", "dynamic_context", "fusion", "raw_maps", "embedded_halves")
"""Methods that a tool may have replaced on one layer."""


def computes(layer: "CoTLayer", x: Tensor) -> bool:
    """Whether `fused_context` may compute: the layer's parts are as they were built, and nobody looks on.

    Args:
        layer: The layer.
        x: Features, ``(B, C, H, W)``.
    """
    compiles = _compiles(x)
    if not (layer.context == "full" and (compiles or (_pointwise.may_choose(x) and cpu.computes(x)))):
        return False
    parts: Any = (layer.embed, layer.conv1x1, layer.se)
    if not all(map(is_plain, parts, (nn.Sequential,) * 3)) or tuple(map(len, parts)) != (5, 2, 4):
        return False
    if not (_has_its_shape(layer) and not any(name in layer.__dict__ for name in _STEPS)):
        return False
    convolutions = (layer.embed[0], layer.embed[3], layer.conv1x1[0], layer.se[0], layer.se[3])
    norms = (layer.embed[1], layer.conv1x1[1], layer.bn, layer.se[1])
    return (
        all(is_plain(conv, nn.Conv2d) for conv in convolutions)
        and all(fixed_norm(norm) or is_idle(norm) for norm in norms)
        and is_plain(layer.embed[4], nn.GroupNorm)
        and all(is_plain(act, nn.ReLU) for act in (layer.embed[2], layer.se[2]))
        and is_plain(layer.act, nn.SiLU)
        and (compiles or cpu.can_read(x, *_context(layer).tensors(), *_numbers(layer.embed[1])))
    )


def fused_context(layer: "CoTLayer", x: Tensor, static: Tensor) -> Tensor:
    """Return the fused context, ``(B, C, H, W)``, up to rounding what the layer's parts make one after the other.

    Args:
        layer: The layer.
        x: Features, ``(B, C, H, W)``.
        static: Static context, ``(B, C, H, W)``.
    """
    embed, values, context = cast(Any, layer.embed), cast(Any, layer.conv1x1), _context(layer)
    if torch.compiler.is_compiling():  # the compiler folds the values' norm into their convolution
        raw = layer.raw_maps(x, static)
        return op.cot_context(raw, values(x), static, context._replace(values_norm=None))
    hidden, of_static = map(_channels_last, layer.embedded_halves(x, static))
    cpu.norm_activation(hidden, cpu.Norm.of(embed[1]), "relu", before=of_static, after=None)
    raw, value = (_channels_last(_pointwise.computed(*step)) for step in ((embed[3], hidden), (values[0], x)))
    return cpu.cot_context(raw, value, _channels_last(static), context)


def _has_its_shape(layer: "CoTLayer") -> bool:
    """Whether the parts that the kernel replaces have its sizes: others may stand in their places."""
    maps_norm, hidden, pair = (cast(Any, part) for part in (layer.embed[4], layer.se[0], layer.se[3]))
    return (
        getattr(maps_norm, "num_groups", None) == layer.maps
        and all(_pointwise.is_pointwise(conv) for conv in (hidden, pair))
        and (hidden.in_channels, pair.out_channels) == (layer.out_channels, 2 * layer.out_channels)
    )


def _compiles(x: Tensor) -> bool:
    """Whether `torch.compile` makes a graph for inference on a CPU, in a type that the kernels know."""
    return (
        torch.compiler.is_dynamo_compiling()
        and not torch.compiler.is_exporting()
        and not torch.is_grad_enabled()
        and isinstance(x, Tensor)
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.is_autocast_enabled("cpu")
        and is_channels_last(x)
    )


def _context(layer: "CoTLayer") -> cpu.Context:
    maps_norm, hidden, pair = (cast(Any, part) for part in (layer.embed[4], layer.se[0], layer.se[3]))
    return cpu.Context(
        maps_norm.weight, maps_norm.bias, maps_norm.eps,
        cpu.Norm.of(layer.conv1x1[1]), cpu.Norm.of(layer.bn),
        hidden.weight, hidden.bias, cpu.Norm.of(layer.se[1]), pair.weight, pair.bias,
        layer.maps, layer.kernel_size, layer.dilation, layer.groups,
    )  # fmt: skip


def _numbers(norm: nn.Module) -> tuple[Tensor | None, ...]:
    found = cpu.Norm.of(norm)
    return () if found is None else found[:4]


def _channels_last(x: Tensor) -> Tensor:
    """Return an image in the kernels' memory format; small convolutions return another one."""
    return x.contiguous(memory_format=torch.channels_last)
