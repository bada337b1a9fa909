"""A CoT layer in inference on a CPU: convolutions, and one call for all between and behind them."""

from typing import TYPE_CHECKING, Any, NamedTuple, cast

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


class Parts(NamedTuple):
    """A layer's parts as they were built, looked up once: a module's attributes take long to find."""

    embed: tuple[Any, ...]
    values: tuple[Any, ...]
    context: cpu.Context


def parts_of(layer: "CoTLayer", x: Tensor) -> Parts | None:
    """Return what `fused_context` computes with, if the parts are as they were built and nobody looks on.

    Args:
        layer: The layer.
        x: Features, ``(B, C, H, W)``.
    """
    compiles = _compiles(x)
    if not (layer.context == "full" and (compiles or (_pointwise.may_choose(x) and cpu.computes(x)))):
        return None
    sequences: Any = (layer.embed, layer.conv1x1, layer.se)
    if not all(map(is_plain, sequences, (nn.Sequential,) * 3)) or tuple(map(len, sequences)) != (5, 2, 4):
        return None
    embed, values, fusion = map(tuple, sequences)
    if any(name in layer.__dict__ for name in _STEPS) or not _have_their_shape(layer, embed, fusion):
        return None
    bn: Any = layer.bn
    if not (
        all(is_plain(conv, nn.Conv2d) for conv in (embed[0], embed[3], values[0], fusion[0], fusion[3]))
        and all(fixed_norm(norm) or is_idle(norm) for norm in (embed[1], values[1], bn, fusion[1]))
        and is_plain(embed[4], nn.GroupNorm)
        and all(is_plain(act, nn.ReLU) for act in (embed[2], fusion[2]))
        and is_plain(layer.act, nn.SiLU)
    ):
        return None
    context = cpu.Context(
        embed[4].weight, embed[4].bias, embed[4].eps, cpu.Norm.of(values[1]), cpu.Norm.of(bn),
        fusion[0].weight, fusion[0].bias, cpu.Norm.of(fusion[1]), fusion[3].weight, fusion[3].bias,
        layer.maps, layer.kernel_size, layer.dilation, layer.groups,
    )  # fmt: skip
    if not (compiles or cpu.can_read(x, *context.tensors(), *_numbers(embed[1]))):
        return None
    return Parts(embed, values, context)


def fused_context(layer: "CoTLayer", parts: Parts, x: Tensor, static: Tensor) -> Tensor:
    """Return the fused context, ``(B, C, H, W)``, up to rounding what the layer's parts make one after the other.

    Args:
        layer: The layer.
        parts: Its parts.
        x: Features, ``(B, C, H, W)``.
        static: Static context, ``(B, C, H, W)``.
    """
    embed, values, context = parts
    if torch.compiler.is_compiling():  # the compiler folds the values' norm into their convolution
        raw = layer.raw_maps(x, static)
        return op.cot_context(raw, cast(Any, layer.conv1x1)(x), static, context._replace(values_norm=None))
    hidden, of_static = map(_channels_last, layer.embedded_halves(x, static))
    cpu.norm_activation(hidden, cpu.Norm.of(embed[1]), "relu", before=of_static, after=None)
    raw, value = (_channels_last(_pointwise.computed(*step)) for step in ((embed[3], hidden), (values[0], x)))
    return cpu.cot_context(raw, value, _channels_last(static), context)


def _have_their_shape(layer: "CoTLayer", embed: tuple[Any, ...], fusion: tuple[Any, ...]) -> bool:
    """Whether the parts that the kernel replaces have its sizes: others may stand in their places."""
    hidden, pair = fusion[0], fusion[3]
    return (
        getattr(embed[4], "num_groups", None) == layer.maps
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


def _numbers(norm: nn.Module) -> tuple[Tensor | None, ...]:
    found = cpu.Norm.of(norm)
    return () if found is None else found[:4]


def _channels_last(x: Tensor) -> Tensor:
    """Return an image in the kernels' memory format; small convolutions return another one."""
    return x.contiguous(memory_format=torch.channels_last)
