"""Registration of contextual convolution: op, fake, setup, backward, autograd, cost."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ctxvision.ops._backend import kernels
from ctxvision.ops._geometry import empty_like_layout
from ctxvision.ops.contextual_conv import reference
from ctxvision.ops.contextual_conv.checks import check_backward, check_contextual_conv

Ints = Sequence[int]
PACKAGE = "ctxvision.ops.contextual_conv"
Grads = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

# y = contextual_conv(x, w, dp, dw, m, bias) -----------------------------------------------------


@torch.library.custom_op("ctxvision::contextual_conv2d", mutates_args=())
def contextual_conv(
    x: Tensor, weight: Tensor, offset: Tensor,
    weight_offset: Tensor | None, mask: Tensor | None, bias: Tensor | None,
    stride: Ints, padding: Ints, dilation: Ints, groups: int,
) -> Tensor:  # fmt: skip
    """See `ctxvision.ops.contextual_conv2d`, which checks the arguments."""
    check_contextual_conv(x, weight, offset, weight_offset, mask, bias, stride, padding, dilation, groups)
    y: Tensor = kernels(PACKAGE, x, weight, offset, weight_offset, mask, bias).contextual_conv(
        x, weight, offset, weight_offset, mask, bias, stride, padding, dilation, groups
    )  # fmt: skip
    return y


@contextual_conv.register_fake
def _(
    x: Tensor, weight: Tensor, offset: Tensor,
    weight_offset: Tensor | None, mask: Tensor | None, bias: Tensor | None,
    stride: Ints, padding: Ints, dilation: Ints, groups: int,
) -> Tensor:  # fmt: skip
    size = check_contextual_conv(x, weight, offset, weight_offset, mask, bias, stride, padding, dilation, groups)
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


contextual_conv.register_autograd(_backward_forward, setup_context=_setup_forward)

# (gx, gw, gdp, gdw, gm) = contextual_conv_backward(gy, x, w, dp, dw, m) ---------------------------


@torch.library.custom_op("ctxvision::contextual_conv2d_backward", mutates_args=())
def contextual_conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, offset: Tensor, weight_offset: Tensor | None, mask: Tensor | None,
    stride: Ints, padding: Ints, dilation: Ints, groups: int, needs: Sequence[bool],
) -> Grads:  # fmt: skip
    """Gradients of `contextual_conv` in its first five arguments; empty where ``needs`` is false."""
    check_backward(grad, x, weight, offset, weight_offset, mask, stride, padding, dilation, groups, needs)
    grads: Grads = kernels(PACKAGE, grad, x, weight, offset, weight_offset, mask).backward(
        grad, x, weight, offset, weight_offset, mask, stride, padding, dilation, groups, needs
    )  # fmt: skip
    return grads


@contextual_conv_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, offset: Tensor, weight_offset: Tensor | None, mask: Tensor | None,
    stride: Ints, padding: Ints, dilation: Ints, groups: int, needs: Sequence[bool],
) -> Grads:  # fmt: skip
    check_backward(grad, x, weight, offset, weight_offset, mask, stride, padding, dilation, groups, needs)
    taps = weight.shape[2] * weight.shape[3]
    return (
        empty_like_layout(x, x.shape) if needs[0] else x.new_empty(0),
        weight.new_empty(weight.shape) if needs[1] else x.new_empty(0),
        x.new_empty(offset.shape) if needs[2] else x.new_empty(0),
        x.new_empty((*x.shape[:2], *weight.shape[2:])) if needs[3] else x.new_empty(0),
        x.new_empty((x.shape[0], taps, *offset.shape[2:])) if needs[4] else x.new_empty(0),
    )


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Grads) -> None:
    *tensors, stride, padding, dilation, groups, needs = inputs
    ctx.save_for_backward(*tensors)
    ctx.geometry = (stride, padding, dilation, groups, needs)


def _backward_backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    # The second derivative is rare: differentiate the plain-torch backward instead of deriving it by hand.
    wanted = [tensor for tensor, need in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False) if need]
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        outputs = reference.backward(*ctx.saved_tensors, *ctx.geometry)
        pairs = [
            (output, g) for output, g in zip(outputs, grads, strict=True) if output.requires_grad and g is not None
        ]
    results = iter(
        torch.autograd.grad(
            [output for output, _ in pairs],
            wanted,
            [g for _, g in pairs],
            create_graph=create_graph,
            allow_unused=True,
        )
        if pairs
        else [None] * len(wanted)
    )
    return (*(next(results) if need else None for need in ctx.needs_input_grad[:6]), *(None,) * 5)


contextual_conv_backward.register_autograd(_backward_backward, setup_context=_setup_backward)

# cost -------------------------------------------------------------------------------------------


def _flops(x: torch.Size, weight: torch.Size, offset: torch.Size, with_weight_offset: bool) -> int:
    """Two operations per multiply-add: four to interpolate a sample, then the convolution's own."""
    positions, taps = offset[0] * offset[2] * offset[3], weight[2] * weight[3]
    depthwise = weight[1] == 1 and weight[0] == x[1]
    per_tap = 4 * x[1] + weight[0] * weight[1] + (x[1] if with_weight_offset and not depthwise else 0)
    return 2 * positions * taps * per_tap


@register_flop_formula(torch.ops.ctxvision.contextual_conv2d)
def _(x: torch.Size, weight: torch.Size, offset: torch.Size, weight_offset: Any, *_: Any, **__: Any) -> int:
    return _flops(x, weight, offset, weight_offset is not None)


@register_flop_formula(torch.ops.ctxvision.contextual_conv2d_backward)
def _(
    grad: torch.Size,
    x: torch.Size,
    weight: torch.Size,
    offset: torch.Size,
    weight_offset: Any,
    *_: Any,
    **__: Any,
) -> int:
    # gradients of samples and kernels repeat the forward's products, those of the positions its interpolation
    return 2 * _flops(x, weight, offset, weight_offset is not None)
