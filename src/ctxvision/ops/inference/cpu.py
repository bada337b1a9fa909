"""Norm, sum and activation in one pass, and the contexts of a CoT layer, with the compiled CPU kernels.

Nothing here is an operator of torch: no tracer, tape or counter sees these calls. Whoever calls them knows that
nobody looks on (`ctxvision.nn._steps`), and has the same in torch's layers for everybody else.
"""

import struct
from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ctxvision.ops import _native
from ctxvision.ops._backend import choose

Activation = Literal["none", "relu", "silu"]
ACTIVATIONS: dict[Activation, int] = {"none": 0, "relu": 1, "silu": 2}  # Activation in inference.cpp
_NO_NORM = (None, None, None, None)


class ContextLayers(NamedTuple):
    """The layers of a CoT layer behind its convolutions, as `ctxvision.nn.CoTLayer` names them.

    Norms are BatchNorm in evaluation mode, or ``None`` where they were folded into what stands before them.
    """

    maps_norm: nn.GroupNorm
    values_norm: nn.BatchNorm2d | None
    result_norm: nn.BatchNorm2d | None
    hidden: nn.Conv2d
    hidden_norm: nn.BatchNorm2d | None
    pair: nn.Conv2d


def computes(x: Tensor) -> bool:
    """Whether the kernels can read and write this image, ``(B, C, H, W)``."""
    return (
        x.dim() == 4
        and x.dtype in _native.CODES
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.numel() > 0
        and choose(x.device, x.dtype) == "native"
    )


def can_read(x: Tensor, *layers: nn.Module | None) -> bool:
    """Whether all parameters and statistics of some layers are dense tensors of the type of ``x``."""
    return all(
        tensor is None or (tensor.dtype == x.dtype and tensor.device == x.device and tensor.is_contiguous())
        for layer in layers
        if layer is not None
        for tensor in _numbers(layer)
    )


def norm_activation(
    x: Tensor, norm: nn.BatchNorm2d | None, activation: Activation, *, before: Tensor | None, after: Tensor | None
) -> None:
    """Make ``activation(norm(x + before) + after)`` of ``x``, in place.

    Args:
        x: Image, ``(B, C, H, W)``, for which `computes` holds.
        norm: BatchNorm in evaluation mode with statistics, or ``None``.
        activation: Name of the activation.
        before: Image of the same kind, added before the norm.
        after: Image of the same kind, added after the norm.

    Raises:
        ValueError: If an image has another shape, type or memory format.
    """
    for other in (before, after):
        if other is not None and (other.shape != x.shape or other.dtype != x.dtype or not computes(other)):
            raise ValueError(
                f"cannot add an image {tuple(other.shape)}, {other.dtype} to {tuple(x.shape)}, {x.dtype}"
            )
    batch, channels, height, width = x.shape
    _require_channels(channels, norm)
    numbers = (_native.CODES[x.dtype], ACTIVATIONS[activation], batch * height * width, channels, _eps(norm))
    _library().call("ctxvision_norm_activation", (x, before, after, *_of_norm(norm)), numbers)


def cot_context(
    raw: Tensor, values: Tensor, static: Tensor, layers: ContextLayers, *, kernel: int, dilation: int, groups: int
) -> Tensor:
    """Return the fused context of a CoT layer, ``(B, C, H, W)`` (Li et al., 2021, section 3.2).

    Args:
        raw: Attention maps before their GroupNorm, ``(B, C / 8 * k * k, H, W)``; overwritten.
        values: Values before their norm, ``(B, C, H, W)``; overwritten.
        static: Static context, ``(B, C, H, W)``.
        layers: The layers; `can_read` holds for them.
        kernel: Side ``k`` of the neighbourhood, in pixels.
        dilation: Distance between the taps, in pixels.
        groups: Number of groups of channels that have maps of their own.

    Raises:
        ValueError: If the shapes do not fit.
    """
    batch, channels, height, width = values.shape
    maps, hidden = layers.maps_norm.num_groups, layers.hidden.out_channels
    fits = (
        raw.shape == (batch, maps * kernel**2, height, width)
        and static.shape == values.shape
        and layers.maps_norm.num_channels == maps * kernel**2
        and channels % maps == maps % groups == 0
        and layers.hidden.weight.numel() == hidden * channels
        and layers.pair.weight.numel() == 2 * channels * hidden
        and all(computes(image) and image.dtype == values.dtype for image in (raw, values, static))
    )
    if not fits:
        raise ValueError(f"maps {tuple(raw.shape)} and values {tuple(values.shape)} do not fit to the CoT layer")
    norms = (layers.values_norm, layers.result_norm, layers.hidden_norm)
    for norm, width_of in zip(norms, (channels, channels, hidden), strict=True):
        _require_channels(width_of, norm)
    result = torch.empty_like(values, memory_format=torch.channels_last)
    tensors = (
        raw, values, static, result,
        layers.maps_norm.weight, layers.maps_norm.bias,
        *_of_norm(layers.values_norm), *_of_norm(layers.result_norm),
        layers.hidden.weight, layers.hidden.bias, *_of_norm(layers.hidden_norm),
        layers.pair.weight, layers.pair.bias,
    )  # fmt: skip
    numbers = (
        _native.CODES[values.dtype], batch, height, width, channels, maps, kernel, dilation, groups, hidden,
        _bits(layers.maps_norm.eps), *map(_eps, norms),
    )  # fmt: skip
    _library().call("ctxvision_cot_context", tensors, numbers)
    return result


def _numbers(layer: nn.Module) -> Sequence[Tensor | None]:
    statistics = (layer.running_mean, layer.running_var) if isinstance(layer, nn.BatchNorm2d) else ()
    return (*layer._parameters.values(), *statistics)


def _of_norm(norm: nn.BatchNorm2d | None) -> tuple[Tensor | None, ...]:
    return _NO_NORM if norm is None else (norm.weight, norm.bias, norm.running_mean, norm.running_var)


def _require_channels(channels: int, norm: nn.BatchNorm2d | None) -> None:
    sizes = {tensor.numel() for tensor in _of_norm(norm) if tensor is not None}
    if not sizes <= {channels}:
        raise ValueError(f"a norm of {sorted(sizes)} channels cannot follow {channels} channels")


def _eps(norm: nn.BatchNorm2d | None) -> int:
    return 0 if norm is None else _bits(norm.eps)


@cache
def _bits(value: float) -> int:
    """Return the bits of a float64 as an integer, as kernels take numbers."""
    bits: int = struct.unpack("q", struct.pack("d", value))[0]
    return bits


def _library() -> _native.Library:
    library = _native.load()
    assert isinstance(library, _native.Library)  # `computes` has seen it
    return library
