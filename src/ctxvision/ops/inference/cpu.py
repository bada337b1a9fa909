"""Norm, sum and activation in one pass, and the contexts of a CoT layer, with the compiled CPU kernels.

No tracer, tape or counter sees these calls. Whoever makes them knows that nobody looks on (`ctxvision.nn._steps`),
and has the same in torch's layers for everybody else.
"""

import struct
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ctxvision.ops import _native
from ctxvision.ops._backend import choose

Activation = Literal["none", "relu", "silu"]
ACTIVATIONS: dict[Activation, int] = {"none": 0, "relu": 1, "silu": 2}  # Activation in inference.cpp
_NO_NORM = (None, None, None, None)


class Norm(NamedTuple):
    """A BatchNorm in evaluation mode: tensors of as many values as there are channels."""

    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor
    variance: Tensor
    eps: float

    @classmethod
    def of(cls, layer: nn.Module) -> "Norm | None":
        """Return the numbers of a BatchNorm with statistics; ``None`` of what replaced one that was folded."""
        if not isinstance(layer, nn.BatchNorm2d):
            return None
        assert layer.running_mean is not None
        assert layer.running_var is not None
        return cls(layer.weight, layer.bias, layer.running_mean, layer.running_var, layer.eps)


class Context(NamedTuple):
    """What a CoT layer computes with behind its convolutions (Li et al., 2021, section 3.2); C channels."""

    maps_weight: Tensor | None
    """Scale of the maps' GroupNorm, ``(M * k * k,)`` for M maps."""
    maps_bias: Tensor | None
    maps_eps: float
    values_norm: Norm | None
    """Norm of the values before they are aggregated, of C channels."""
    result_norm: Norm | None
    """Norm of what is aggregated, of C channels."""
    hidden_weight: Tensor
    """First layer of the fusion, ``(D, C, 1, 1)``."""
    hidden_bias: Tensor | None
    hidden_norm: Norm | None
    pair_weight: Tensor
    """Second layer of the fusion, ``(2 * C, D, 1, 1)``: two neighbours belong to a channel."""
    pair_bias: Tensor | None
    maps: int
    """Number M of maps of each position; each norms for itself."""
    kernel: int
    """Side ``k`` of the neighbourhood, in pixels."""
    dilation: int
    """Distance between the taps, in pixels."""
    groups: int
    """Number of groups of channels that have maps of their own."""

    def tensors(self) -> tuple[Tensor | None, ...]:
        """Return all tensors in the order in which the kernel takes them."""
        return (
            self.maps_weight, self.maps_bias, *_of_norm(self.values_norm), *_of_norm(self.result_norm),
            self.hidden_weight, self.hidden_bias, *_of_norm(self.hidden_norm), self.pair_weight, self.pair_bias,
        )  # fmt: skip


def computes(x: Tensor) -> bool:
    """Whether the kernels can read and write this image, ``(B, C, H, W)``."""
    return (
        x.dim() == 4
        and x.dtype in _native.CODES
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.numel() > 0
        and choose(x.device, x.dtype) == "native"
    )


def can_read(x: Tensor, *tensors: Tensor | None) -> bool:
    """Whether parameters and statistics are dense, on the CPU and of the type of an image ``x``."""
    return all(
        tensor is None or (tensor.dtype == x.dtype and tensor.is_cpu and _is_dense(tensor)) for tensor in tensors
    )


def _is_dense(tensor: Tensor) -> bool:
    """Whether a tensor has its memory (that of sharded parameters is given back), without gaps."""
    if tensor.data_ptr() == 0:
        return False
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return True
    return tensor.is_contiguous()


def norm_activation(
    x: Tensor, norm: Norm | None, activation: Activation, *, before: Tensor | None, after: Tensor | None
) -> None:
    """Make ``activation(norm(x + before) + after)`` of ``x``, in place.

    Args:
        x: Image, ``(B, C, H, W)``, for which `computes` holds.
        norm: The norm, or ``None``.
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


def cot_context(raw: Tensor, values: Tensor, static: Tensor, context: Context) -> Tensor:
    """Return the fused context of a CoT layer, ``(B, C, H, W)`` (Li et al., 2021, section 3.2).

    Args:
        raw: Attention maps before their GroupNorm, ``(B, M * k * k, H, W)``.
        values: Values before their norm, ``(B, C, H, W)``.
        static: Static context, ``(B, C, H, W)``.
        context: What it computes with.

    Raises:
        ValueError: If the shapes do not fit.
    """
    batch, channels, height, width = values.shape
    hidden, taps = context.hidden_weight.shape[0], context.kernel**2
    maps_affine = [tensor.numel() for tensor in (context.maps_weight, context.maps_bias) if tensor is not None]
    fits = (
        raw.shape == (batch, context.maps * taps, height, width)
        and static.shape == values.shape
        and set(maps_affine) <= {context.maps * taps}
        and channels % context.maps == context.maps % context.groups == 0
        and context.hidden_weight.numel() == hidden * channels
        and context.pair_weight.numel() == 2 * channels * hidden
        and all(computes(image) and image.dtype == values.dtype for image in (raw, values, static))
    )
    if not fits:
        raise ValueError(f"maps {tuple(raw.shape)} and values {tuple(values.shape)} do not fit to the CoT layer")
    norms = (context.values_norm, context.result_norm, context.hidden_norm)
    for norm, width_of in zip(norms, (channels, channels, hidden), strict=True):
        _require_channels(width_of, norm)
    result = torch.empty_like(values, memory_format=torch.channels_last)
    numbers = (
        _native.CODES[values.dtype], batch, height, width, channels, context.maps, context.kernel,
        context.dilation, context.groups, hidden, _bits(context.maps_eps), *map(_eps, norms),
    )  # fmt: skip
    _library().call("ctxvision_cot_context", (raw, values, static, result, *context.tensors()), numbers)
    return result


def _of_norm(norm: Norm | None) -> tuple[Tensor | None, ...]:
    return _NO_NORM if norm is None else norm[:4]


def _require_channels(channels: int, norm: Norm | None) -> None:
    sizes = {tensor.numel() for tensor in _of_norm(norm) if tensor is not None}
    if not sizes <= {channels}:
        raise ValueError(f"a norm of {sorted(sizes)} channels cannot follow {channels} channels")


def _eps(norm: Norm | None) -> int:
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
