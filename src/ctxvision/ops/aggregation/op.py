"""Registration of local aggregation: op, fake, setup, backward, derivatives, cost.

The operator and its two adjoints are the three partial contractions of one trilinear form in (x, a, y), so each
one's backward is written with the other two, its tangent with itself, and derivatives of every order exist. All
tensors have the images first: a further batch dimension is folded into them.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.library import CustomOpDef
from torch.utils.flop_counter import register_flop_formula

from ctxvision.ops._backend import kernels
from ctxvision.ops._derivatives import Tangents, fold_images, register_derivatives
from ctxvision.ops._geometry import empty_like_layout, empty_maps, like_layout

from .checks import check_aggregate, check_input_grad, check_weight_grad

Ints = Sequence[int]
PACKAGE = "ctxvision.ops.aggregation"


def _tangent(op: CustomOpDef, args: Sequence[Any], tangents: Tangents) -> Tensor:
    """Return the tangent of an operator that is linear in each of its first two arguments, the tensors."""
    (first, second, *geometry), (by_first, by_second, *_) = args, tangents
    if by_first is None or by_second is None:
        linear = (first, by_second) if by_first is None else (by_first, second)
        return op(*linear, *geometry)  # type: ignore[no-any-return]
    return op(by_first, second, *geometry) + op(first, by_second, *geometry)  # type: ignore[no-any-return]


def _batched(
    op: CustomOpDef, info: Any, in_dims: Sequence[int | None], first: Tensor, second: Tensor, *geometry: Any
) -> tuple[Tensor, int]:
    """Compute an operator under `torch.vmap`."""
    first, second = (fold_images(t, n, info.batch_size) for t, n in zip((first, second), in_dims, strict=False))
    return op(first, second, *geometry).unflatten(0, (info.batch_size, -1)), 0


def _register_derivatives(op: CustomOpDef, name: str, backward: Any, setup_context: Any) -> None:
    register_derivatives(name, backward, setup_context, partial(_tangent, op))
    op.register_vmap(partial(_batched, op))


# y = aggregate(x, a) ---------------------------------------------------------------------------


@torch.library.custom_op("ctxvision::local_aggregation", mutates_args=())
def aggregate(x: Tensor, weight: Tensor, stride: Ints, padding: Ints, dilation: Ints, interleaved: bool) -> Tensor:
    """See `ctxvision.ops.local_aggregation`, which checks the arguments."""
    check_aggregate(x, weight, stride, padding, dilation)
    y: Tensor = kernels(PACKAGE, x, weight).aggregate(x, weight, stride, padding, dilation, interleaved)
    return y


@aggregate.register_fake
def _(x: Tensor, weight: Tensor, stride: Ints, padding: Ints, dilation: Ints, interleaved: bool) -> Tensor:
    check_aggregate(x, weight, stride, padding, dilation)
    return empty_like_layout(x, (*x.shape[:2], *weight.shape[3:]))


def _setup_aggregate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight)


def _backward_aggregate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    grad = like_layout(grad, x)  # a sum's gradient is expanded from one number
    return (
        aggregate_input_grad(grad, weight, x.shape[2:], *ctx.geometry) if ctx.needs_input_grad[0] else None,
        aggregate_weight_grad(x, grad, *weight.shape[1:3], *ctx.geometry) if ctx.needs_input_grad[1] else None,
        *(None,) * 4,
    )


_register_derivatives(aggregate, "local_aggregation", _backward_aggregate, _setup_aggregate)

# gx = aggregate_input_grad(gy, a) --------------------------------------------------------------


@torch.library.custom_op("ctxvision::local_aggregation_input_grad", mutates_args=())
def aggregate_input_grad(
    grad: Tensor,
    weight: Tensor,
    input_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    interleaved: bool,
) -> Tensor:
    """Return the adjoint of `aggregate` in x, (B, C, H, W), of a gradient (B, C, H', W')."""
    check_input_grad(grad, weight, input_size, stride, padding, dilation)
    grad_x: Tensor = kernels(PACKAGE, grad, weight).input_grad(
        grad, weight, input_size, stride, padding, dilation, interleaved
    )
    return grad_x


@aggregate_input_grad.register_fake
def _(
    grad: Tensor,
    weight: Tensor,
    input_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    interleaved: bool,
) -> Tensor:
    check_input_grad(grad, weight, input_size, stride, padding, dilation)
    return empty_like_layout(grad, (*grad.shape[:2], *input_size))


def _setup_input_grad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, weight, _, *ctx.geometry = inputs
    ctx.save_for_backward(grad, weight)


def _backward_input_grad(ctx: Any, grad_x: Tensor) -> tuple[Tensor | None, ...]:
    grad, weight = ctx.saved_tensors
    return (
        aggregate(grad_x, weight, *ctx.geometry) if ctx.needs_input_grad[0] else None,
        aggregate_weight_grad(grad_x, grad, *weight.shape[1:3], *ctx.geometry)
        if ctx.needs_input_grad[1]
        else None,
        *(None,) * 5,
    )


_register_derivatives(
    aggregate_input_grad, "local_aggregation_input_grad", _backward_input_grad, _setup_input_grad
)

# ga = aggregate_weight_grad(x, gy) -------------------------------------------------------------


@torch.library.custom_op("ctxvision::local_aggregation_weight_grad", mutates_args=())
def aggregate_weight_grad(
    x: Tensor,
    grad: Tensor,
    groups: int,
    taps: int,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    interleaved: bool,
) -> Tensor:
    """Return the adjoint of `aggregate` in the weight, (B, G, k*k, H', W'), of a gradient (B, C, H', W')."""
    check_weight_grad(x, grad, groups, taps, stride, padding, dilation)
    grad_weight: Tensor = kernels(PACKAGE, x, grad).weight_grad(
        x, grad, groups, taps, stride, padding, dilation, interleaved
    )
    return grad_weight


@aggregate_weight_grad.register_fake
def _(
    x: Tensor,
    grad: Tensor,
    groups: int,
    taps: int,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    interleaved: bool,
) -> Tensor:
    check_weight_grad(x, grad, groups, taps, stride, padding, dilation)
    return empty_maps(grad, groups, taps)


def _setup_weight_grad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, grad, _, _, *ctx.geometry = inputs
    ctx.save_for_backward(x, grad)


def _backward_weight_grad(ctx: Any, grad_weight: Tensor) -> tuple[Tensor | None, ...]:
    x, grad = ctx.saved_tensors
    return (
        aggregate_input_grad(grad, grad_weight, x.shape[2:], *ctx.geometry) if ctx.needs_input_grad[0] else None,
        aggregate(x, grad_weight, *ctx.geometry) if ctx.needs_input_grad[1] else None,
        *(None,) * 6,
    )


_register_derivatives(
    aggregate_weight_grad, "local_aggregation_weight_grad", _backward_weight_grad, _setup_weight_grad
)

# cost: two floating-point operations per tap, channel and output position, in each direction ----


def _flops(channel_shape: torch.Size, weight_shape: torch.Size) -> int:
    batch, _, taps, height, width = weight_shape
    return 2 * batch * channel_shape[1] * taps * height * width


@register_flop_formula(torch.ops.ctxvision.local_aggregation)
def _(x: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    return _flops(x, weight)


@register_flop_formula(torch.ops.ctxvision.local_aggregation_input_grad)
def _(grad: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    return _flops(grad, weight)


@register_flop_formula(torch.ops.ctxvision.local_aggregation_weight_grad)
def _(x: torch.Size, grad: torch.Size, *_: Any, out_shape: torch.Size, **__: Any) -> int:
    return _flops(x, out_shape)
