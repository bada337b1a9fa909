"""Registration of contextual convolution: op, fake, setup, backward, derivatives, cost."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ctxvision.ops._backend import kernels
from ctxvision.ops._derivatives import Tangents, fold_images, register_derivatives, tangents_through
from ctxvision.ops._geometry import accumulation_dtype, empty_like_layout, output_size

from . import reference
from .checks import check_backward, check_contextual_conv

Ints = Sequence[int]
PACKAGE = "ctxvision.ops.contextual_conv"
Grads = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

# The schemas call Δp `offset`, as programs that were exported before the argument was renamed do.
_GEOMETRY = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups"
_OFFSETS = "Tensor offset, Tensor? weight_offset, Tensor? mask"
SCHEMA = f"(Tensor x, Tensor weight, {_OFFSETS}, Tensor? bias, {_GEOMETRY}) -> Tensor"
BACKWARD_SCHEMA = (
    f"(Tensor grad, Tensor x, Tensor weight, {_OFFSETS}, {_GEOMETRY}, bool[] needs) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)

# y = contextual_conv(x, w, dp, dw, m, bias) -----------------------------------------------------


@torch.library.custom_op("ctxvision::contextual_conv2d", mutates_args=(), schema=SCHEMA)
def contextual_conv(
    x: Tensor, weight: Tensor, sampling_offset: Tensor,
    weight_offset: Tensor | None, mask: Tensor | None, bias: Tensor | None,
    stride: Ints, padding: Ints, dilation: Ints, groups: int,
) -> Tensor:  # fmt: skip
    """See `ctxvision.ops.contextual_conv2d`, which checks the arguments."""
    check_contextual_conv(x, weight, sampling_offset, weight_offset, mask, bias, stride, padding, dilation, groups)
    y: Tensor = kernels(PACKAGE, x, weight, sampling_offset, weight_offset, mask, bias).contextual_conv(
        x, weight, sampling_offset, weight_offset, mask, bias, stride, padding, dilation, groups
    )  # fmt: skip
    return y


@contextual_conv.register_fake
def _(
    x: Tensor, weight: Tensor, sampling_offset: Tensor,
    weight_offset: Tensor | None, mask: Tensor | None, bias: Tensor | None,
    stride: Ints, padding: Ints, dilation: Ints, groups: int,
) -> Tensor:  # fmt: skip
    size = check_contextual_conv(
        x, weight, sampling_offset, weight_offset, mask, bias, stride, padding, dilation, groups
    )
    return empty_like_layout(x, (x.shape[0], weight.shape[0], *size))


def _setup_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _bias, stride, padding, dilation, groups = inputs
    ctx.save_for_backward(*tensors)
    ctx.geometry = (stride, padding, dilation, groups)


def _backward_forward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:5])
    grads: list[Tensor | None] = [None] * 5
    if any(needs):
        grads = list(contextual_conv_backward(grad, *ctx.saved_tensors, *ctx.geometry, needs))
    bias_grad = grad.sum((0, 2, 3)) if ctx.needs_input_grad[5] else None
    return (*(g if need else None for g, need in zip(grads, needs, strict=True)), bias_grad, *(None,) * 4)


def _tangent_forward(args: Sequence[Any], tangents: Tangents) -> Tensor:
    x, weight, sampling_offset, weight_offset, mask, _bias, *geometry = args
    by_x, by_weight, by_sampling_offset, by_weight_offset, by_mask, by_bias, *_ = tangents
    parts = [] if by_sampling_offset is None else [_tangent_by_sampling_offset(by_sampling_offset, args)]
    if by_x is not None:
        parts.append(contextual_conv(by_x, weight, sampling_offset, weight_offset, mask, None, *geometry))
    if by_weight is not None or by_weight_offset is not None:
        by_weight = torch.zeros_like(weight) if by_weight is None else by_weight
        parts.append(contextual_conv(x, by_weight, sampling_offset, by_weight_offset, mask, None, *geometry))
    if by_mask is not None:
        parts.append(contextual_conv(x, weight, sampling_offset, weight_offset, by_mask, None, *geometry))
    if by_bias is not None:
        size = output_size(x.shape[2:], weight.shape[2:], *geometry[:3])
        parts.append(by_bias[:, None, None].expand(x.shape[0], -1, *size))
    return sum(parts[1:], parts[0])


def _tangent_by_sampling_offset(by_sampling_offset: Tensor, args: Sequence[Any]) -> Tensor:
    """Move the samples: between two rows of pixels they change by the rows' difference; so do columns."""
    dtype = accumulation_dtype(args[0].dtype)  # differences of rounded numbers are worth little
    tensors: list[Any] = [None if tensor is None else tensor.to(dtype) for tensor in args[:5]]
    x, weight, sampling_offset, weight_offset, mask = tensors
    parts: list[Tensor] = []
    for axis in (0, 1):
        step = by_sampling_offset.to(dtype)[:, axis::2]
        step = step if mask is None else step * mask
        coordinates = [sampling_offset[:, 0::2], sampling_offset[:, 1::2]]
        before = coordinates[axis].floor()
        for position, factor in ((before + 1, step), (before, -step)):
            coordinates[axis] = position
            moved = torch.stack(coordinates, 2).flatten(1, 2)
            parts.append(contextual_conv(x, weight, moved, weight_offset, factor, None, *args[6:]))
    return sum(parts[1:], parts[0]).to(args[0].dtype)


def _batched_forward(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Tensor, int]:
    x, weight, sampling_offset, weight_offset, mask, bias, *geometry = args
    if in_dims[1] is not None or in_dims[5] is not None:  # kernels are shared by the images of a call
        return torch.stack([contextual_conv(*call) for call in _calls(info.batch_size, in_dims, args)]), 0
    x, sampling_offset, weight_offset, mask = _folded(info.batch_size, in_dims, args, (0, 2, 3, 4))
    y = contextual_conv(x, weight, sampling_offset, weight_offset, mask, bias, *geometry)
    return y.unflatten(0, (info.batch_size, -1)), 0


def _folded(size: int, in_dims: Sequence[int | None], args: Sequence[Any], which: Sequence[int]) -> list[Any]:
    """Return some arguments, which have the images first, with the calls of `torch.vmap` as further images."""
    return [None if args[n] is None else fold_images(args[n], in_dims[n], size) for n in which]


def _calls(size: int, in_dims: Sequence[int | None], args: Sequence[Any]) -> Iterator[list[Any]]:
    """Yield the arguments of one call of `torch.vmap` after the other."""
    for n in range(size):
        yield [arg.select(dim, n) if isinstance(dim, int) else arg for arg, dim in zip(args, in_dims, strict=True)]


register_derivatives("contextual_conv2d", _backward_forward, _setup_forward, _tangent_forward)
contextual_conv.register_vmap(_batched_forward)

# (gx, gw, gdp, gdw, gm) = contextual_conv_backward(gy, x, w, dp, dw, m) ---------------------------


@torch.library.custom_op("ctxvision::contextual_conv2d_backward", mutates_args=(), schema=BACKWARD_SCHEMA)
def contextual_conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, sampling_offset: Tensor,
    weight_offset: Tensor | None, mask: Tensor | None,
    stride: Ints, padding: Ints, dilation: Ints, groups: int, needs: Sequence[bool],
) -> Grads:  # fmt: skip
    """Return the gradients of `contextual_conv` in its first five arguments; empty where ``needs`` is false.

    ``grad`` is ``(B, O, H', W')``; each gradient has the shape of its argument.
    """
    check_backward(grad, x, weight, sampling_offset, weight_offset, mask, stride, padding, dilation, groups, needs)
    grads: Grads = kernels(PACKAGE, grad, x, weight, sampling_offset, weight_offset, mask).backward(
        grad, x, weight, sampling_offset, weight_offset, mask, stride, padding, dilation, groups, needs
    )  # fmt: skip
    return grads


@contextual_conv_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, sampling_offset: Tensor,
    weight_offset: Tensor | None, mask: Tensor | None,
    stride: Ints, padding: Ints, dilation: Ints, groups: int, needs: Sequence[bool],
) -> Grads:  # fmt: skip
    check_backward(grad, x, weight, sampling_offset, weight_offset, mask, stride, padding, dilation, groups, needs)
    taps = weight.shape[2] * weight.shape[3]
    return (
        empty_like_layout(x, x.shape) if needs[0] else x.new_empty(0),
        weight.new_empty(weight.shape) if needs[1] else x.new_empty(0),
        x.new_empty(sampling_offset.shape) if needs[2] else x.new_empty(0),
        x.new_empty((*x.shape[:2], *weight.shape[2:])) if needs[3] else x.new_empty(0),
        x.new_empty((x.shape[0], taps, *sampling_offset.shape[2:])) if needs[4] else x.new_empty(0),
    )


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Grads) -> None:
    *tensors, stride, padding, dilation, groups, needs = inputs
    ctx.save_for_backward(*tensors)
    ctx.geometry = (stride, padding, dilation, groups, needs)


def _backward_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    # The second derivative is rare: differentiate the plain-torch backward instead of deriving it by hand. As a
    # function of its own it ends at its arguments, and can itself be differentiated in them.
    wanted = [n for n, need in enumerate(ctx.needs_input_grad[:6]) if need]
    used = [n for n, grad in enumerate(grads) if grad is not None]

    def function(*tensors: Tensor) -> list[Tensor]:
        args = list(ctx.saved_tensors)
        for n, tensor in zip(wanted, tensors, strict=True):
            args[n] = tensor
        results = reference.backward(*args, *ctx.geometry)
        return [results[n] for n in used]

    _, vjp, *_ = torch.func.vjp(function, *(ctx.saved_tensors[n] for n in wanted))
    results: list[Tensor | None] = [None] * 11
    for n, grad in zip(wanted, vjp([grads[n] for n in used]), strict=True):
        results[n] = grad
    return tuple(results)


def _tangent_backward(args: Sequence[Any], tangents: Tangents) -> Sequence[Tensor]:
    return tangents_through(reference.backward, args, tangents)  # rare as well


def _batched_backward(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Any, tuple[int | None, ...]]:
    size, weight, (*geometry, groups, needs) = info.batch_size, args[2], args[6:]
    out_dims = tuple(0 if need else None for need in needs)
    if in_dims[2] is not None:
        calls = zip(*(contextual_conv_backward(*call) for call in _calls(size, in_dims, args)), strict=True)
        return tuple(
            torch.stack(grads) if need else grads[0] for grads, need in zip(calls, needs, strict=True)
        ), out_dims
    # images are folded together; but over all of them is no call's sum for the kernel
    depthwise = weight.shape[1] == 1 and weight.shape[0] == groups
    separable = [needs[0], False, needs[2], needs[3] or (needs[1] and depthwise), needs[4]]
    grad, x, *others = _folded(size, in_dims, args, (0, 1, 3, 4, 5))
    grads = list(contextual_conv_backward(grad, x, weight, *others, *geometry, groups, separable))
    nothing = grads[1]
    grads = [g.unflatten(0, (size, -1)) if need else g for g, need in zip(grads, separable, strict=True)]
    if needs[1] and depthwise:  # the gradient of each image's own kernel is at hand
        grads[1] = grads[3].sum(1).unsqueeze(2)
        grads[3] = grads[3] if needs[3] else nothing
    elif needs[1]:
        only = [False, True, False, False, False]
        every = (contextual_conv_backward(*call[:-1], only)[1] for call in _calls(size, in_dims, args))
        grads[1] = torch.stack(list(every))
    return tuple(grads), out_dims


register_derivatives("contextual_conv2d_backward", _backward_backward, _setup_backward, _tangent_backward)
contextual_conv_backward.register_vmap(_batched_backward)

# cost -------------------------------------------------------------------------------------------


def _flops(x: torch.Size, weight: torch.Size, sampling_offset: torch.Size, with_weight_offset: bool) -> int:
    """Two operations per multiply-add: four to interpolate a sample, then the convolution's own."""
    positions, taps = sampling_offset[0] * sampling_offset[2] * sampling_offset[3], weight[2] * weight[3]
    depthwise = weight[1] == 1 and weight[0] == x[1]
    per_tap = 4 * x[1] + weight[0] * weight[1] + (x[1] if with_weight_offset and not depthwise else 0)
    return 2 * positions * taps * per_tap


@register_flop_formula(torch.ops.ctxvision.contextual_conv2d)
def _(
    x: torch.Size, weight: torch.Size, sampling_offset: torch.Size, weight_offset: Any, *_: Any, **__: Any
) -> int:
    return _flops(x, weight, sampling_offset, weight_offset is not None)


@register_flop_formula(torch.ops.ctxvision.contextual_conv2d_backward)
def _(
    grad: torch.Size,
    x: torch.Size,
    weight: torch.Size,
    sampling_offset: torch.Size,
    weight_offset: Any,
    *_: Any,
    **__: Any,
) -> int:
    # gradients of samples and kernels repeat the forward's products, those of the positions its interpolation
    return 2 * _flops(x, weight, sampling_offset, weight_offset is not None)
