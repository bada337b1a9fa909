"""Contextual convolution on the CPU, float32 and bfloat16: the compiled kernels, and BLAS for dense kernels.

The kernels see pixels as rows, see `_rows.py`: image (B, H * W, C), output and gradient (B, P, O), float32.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ctxvision.ops import _native
from ctxvision.ops._geometry import empty_like_layout

from ._rows import call, empty, empty_rows, rows_of, write_rows

Grads = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
COLUMN_FLOATS = 1 << 20  # samples that are in memory at once: they stay in the caches
COLUMN_POSITIONS = 512  # output positions that one product sums over: longer float32 sums round too much


# what the kernels are told -----------------------------------------------------------------------


class _Problem:
    """Geometry of one call; `numbers` are the fields of ``Problem`` in contextual_conv.hpp."""

    def __init__(
        self, x: Tensor, weight: Tensor, sampling_offset: Tensor, mask: Tensor | None,
        stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int,
    ) -> None:  # fmt: skip
        self.element, self.size = _native.CODES[x.dtype], x.shape[2:]
        self.kernel, self.out_size = weight.shape[2:], sampling_offset.shape[2:]
        self.steps = (*stride, *padding, *dilation)
        self.taps, self.positions = self.kernel.numel(), self.out_size.numel()
        self.groups, self.group_channels = groups, weight.shape[1]
        self.sampling_offset, self.mask = sampling_offset, mask
        self.depthwise = weight.shape[1] == 1 and weight.shape[0] == groups

    def numbers(self, rows: Tensor, kernel_step: int = 0, first: int = 0, count: int | None = None) -> list[int]:
        """Return the numbers for image ``rows`` (B, H * W, C), output positions [first, first + count)."""
        return [
            self.element, rows.shape[0], *self.size, rows.shape[2], *self.out_size,
            *self.kernel, *self.steps,
            *self.sampling_offset.stride(), *(self.sampling_offset if self.mask is None else self.mask).stride(),
            first, self.positions if count is None else count,
            kernel_step, self.groups, self.group_channels,
        ]  # fmt: skip

    def chunks(self, batch: int) -> Iterator[tuple[slice, int, int]]:
        """Yield (images, first, count) of output positions whose samples are computed together."""
        column = max(1, self.taps * self.groups * self.group_channels)
        fitting = min(max(8, COLUMN_FLOATS // column // 8 * 8), COLUMN_POSITIONS)
        images = max(1, fitting // self.positions)
        for b in range(0, batch, images):
            for first in range(0, self.positions, fitting):
                yield slice(b, min(b + images, batch)), first, min(fitting, self.positions - first)


def _optional(tensor: Tensor | None, images: slice) -> Tensor | None:
    return None if tensor is None else tensor[images]


# depthwise ---------------------------------------------------------------------------------------


def _kernels(weight: Tensor, weight_offset: Tensor | None, length: int) -> tuple[Tensor, int]:
    """Return weight + weight_offset as (B or 1, K, C), and the step from one image to the next."""
    batch = 1 if weight_offset is None else weight_offset.shape[0]
    channels, taps = weight.shape[0], weight.shape[2:].numel()
    kernels = empty(weight, batch, taps, length)
    offsets = None if weight_offset is None else weight_offset.contiguous()
    numbers = [_native.CODES[weight.dtype], batch, channels, taps, length]
    call("kernels", [weight.contiguous(), offsets, kernels], numbers)
    return kernels, 0 if weight_offset is None else taps * length


def _depthwise(
    problem: _Problem, x: Tensor, weight: Tensor, weight_offset: Tensor | None, bias: Tensor | None, y: Tensor
) -> Tensor:
    rows, y_rows = rows_of(x), empty_rows(y)
    kernels, step = _kernels(weight, weight_offset, rows.shape[2])
    if bias is not None:
        bias = torch.nn.functional.pad(bias.float(), (0, rows.shape[2] - bias.shape[0]))
    tensors = [rows, kernels, problem.sampling_offset, problem.mask, bias, y_rows]
    call("depthwise", tensors, problem.numbers(rows, step))
    return write_rows(y_rows, y)


def _depthwise_backward(
    problem: _Problem, grad: Tensor, x: Tensor, weight: Tensor, weight_offset: Tensor | None, results: Grads,
    needs: Sequence[bool],
) -> Grads:  # fmt: skip
    x_grad, weight_grad, sampling_offset_grad, weight_offset_grad, mask_grad = results
    rows, grad_rows = rows_of(x), rows_of(grad)
    kernels, step = _kernels(weight, weight_offset, rows.shape[2])
    inputs = [rows, grad_rows, kernels, problem.sampling_offset, problem.mask]
    numbers = problem.numbers(rows, step)
    if needs[2] or needs[4]:
        outputs = [sampling_offset_grad if needs[2] else None, mask_grad if needs[4] else None]
        call("depthwise_positions", inputs + outputs, numbers)
    if needs[0] or needs[1] or needs[3]:
        x_rows = empty_rows(x_grad).zero_() if needs[0] else None
        per_image = empty(x, x.shape[0], *kernels.shape[1:]) if needs[1] or needs[3] else None
        call("depthwise_channels", [*inputs, x_rows, per_image], numbers)
        if x_rows is not None:
            write_rows(x_rows, x_grad)
        if per_image is not None:
            by_channel = per_image[..., : x.shape[1]].transpose(1, 2)  # (B, C, K)
            if needs[1]:
                weight_grad.copy_(by_channel.sum(0).reshape(weight.shape))
            if needs[3]:
                weight_offset_grad.copy_(by_channel.reshape(weight_offset_grad.shape))
    return results


# dense and grouped -------------------------------------------------------------------------------


def _matrices(weight: Tensor, groups: int) -> Tensor:
    """Return the kernels as (G, O / G, K * C / G), float32, channels last."""
    out_channels, width, *kernel = weight.shape
    by_group = weight.float().reshape(groups, out_channels // groups, width, kernel[0] * kernel[1])
    return by_group.transpose(2, 3).flatten(2)


def _weight_offsets(weight_offset: Tensor, groups: int) -> Tensor:
    """Return the weight offsets as (G, B, K * C / G), float32."""
    batch, channels, *kernel = weight_offset.shape
    by_group = weight_offset.float().reshape(batch, groups, channels // groups, kernel[0] * kernel[1])
    return by_group.permute(1, 0, 3, 2).flatten(2)


def _sample(problem: _Problem, rows: Tensor, images: slice, first: int, count: int) -> Tensor:
    """Return samples (G, B * count, K * C / G) of some images and positions."""
    rows = rows[images]
    width = problem.taps * problem.group_channels
    columns = empty(rows, problem.groups, rows.shape[0] * count, width)
    tensors = [rows, problem.sampling_offset[images], _optional(problem.mask, images), columns]
    call("sample", tensors, problem.numbers(rows, 0, first, count))
    return columns


def _dense(
    problem: _Problem, x: Tensor, weight: Tensor, weight_offset: Tensor | None, bias: Tensor | None, y: Tensor
) -> Tensor:
    rows, y_rows, groups = rows_of(x), empty_rows(y, y.shape[1]), problem.groups
    matrices = _matrices(weight, groups).transpose(1, 2)
    weight_offsets = None if weight_offset is None else _weight_offsets(weight_offset, groups)
    for images, first, count in problem.chunks(x.shape[0]):
        columns = _sample(problem, rows, images, first, count)
        part = torch.bmm(columns, matrices)  # (G, B * count, O / G)
        part = part.unflatten(1, (-1, count))
        if weight_offsets is not None:  # one more output per group, which all its outputs share
            own = columns.unflatten(1, (-1, count)) @ weight_offsets[:, images].unsqueeze(-1)
            part += own
        out = y_rows[images, first : first + count].unflatten(2, (groups, -1))
        out.copy_(part.permute(1, 2, 0, 3))
    if bias is not None:
        y_rows += bias.float()
    return write_rows(y_rows, y)


def _dense_backward(
    problem: _Problem, grad: Tensor, x: Tensor, weight: Tensor, weight_offset: Tensor | None, results: Grads,
    needs: Sequence[bool],
) -> Grads:  # fmt: skip
    x_grad, weight_grad, sampling_offset_grad, weight_offset_grad, mask_grad = results
    rows, grad_rows, groups = rows_of(x), rows_of(grad, grad.shape[1]), problem.groups
    matrices = _matrices(weight, groups)
    weight_offsets = None if weight_offset is None else _weight_offsets(weight_offset, groups)
    x_rows = empty_rows(x_grad).zero_() if needs[0] else None
    weight_total = torch.zeros_like(matrices)
    weight_offset_total = empty(x, groups, x.shape[0], matrices.shape[2]).zero_()
    for images, first, count in problem.chunks(x.shape[0]):
        grouped = grad_rows[images, first : first + count].unflatten(2, (groups, -1))  # (B, count, G, O / G)
        grouped = grouped.permute(2, 0, 1, 3).flatten(1, 2)
        summed = grouped.sum(-1).unflatten(1, (-1, count)) if needs[3] or weight_offsets is not None else None
        if needs[1] or needs[3]:
            columns = _sample(problem, rows, images, first, count)
            if needs[1]:
                weight_total += torch.bmm(grouped.transpose(1, 2), columns)  # baddbmm would sum on: rounds more
            if needs[3] and summed is not None:
                own = summed.unsqueeze(2) @ columns.unflatten(1, (-1, count))  # (G, B, 1, K * C / G)
                weight_offset_total[:, images] += own.squeeze(2)
        if needs[0] or needs[2] or needs[4]:
            columns = torch.bmm(grouped, matrices)  # gradient in the modulated samples
            if weight_offsets is not None and summed is not None:
                by_image = columns.unflatten(1, (-1, count))
                by_image.addcmul_(summed.unsqueeze(-1), weight_offsets[:, images].unsqueeze(2))
            mask = _optional(problem.mask, images)
            inputs = [rows[images], columns, None, problem.sampling_offset[images], mask]
            numbers = problem.numbers(rows[images], 0, first, count)
            if needs[2] or needs[4]:
                outputs = [
                    sampling_offset_grad[images] if needs[2] else None,
                    mask_grad[images] if needs[4] else None,
                ]
                call("dense_positions", inputs + outputs, numbers)
            if x_rows is not None:
                call("dense_channels", [*inputs, x_rows[images], None], numbers)
    if x_rows is not None:
        write_rows(x_rows, x_grad)
    if needs[1]:
        weight_grad.copy_(weight_total.unflatten(2, (problem.taps, -1)).transpose(2, 3).reshape(weight.shape))
    if needs[3]:
        by_channel = weight_offset_total.unflatten(2, (problem.taps, -1)).permute(1, 0, 3, 2)  # (B, G, C / G, K)
        weight_offset_grad.copy_(by_channel.reshape(weight_offset_grad.shape))
    return results


# the operator ------------------------------------------------------------------------------------


def contextual_conv(
    x: Tensor,
    weight: Tensor,
    sampling_offset: Tensor,
    weight_offset: Tensor | None,
    mask: Tensor | None,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Return (B, O, H', W'); arguments as in `ctxvision.ops.contextual_conv2d`, already checked."""
    problem = _Problem(x, weight, sampling_offset, mask, stride, padding, dilation, groups)
    y = empty_like_layout(x, (x.shape[0], weight.shape[0], *problem.out_size))
    if problem.depthwise:
        return _depthwise(problem, x, weight, weight_offset, bias, y)
    with torch.autocast("cpu", enabled=False):
        return _dense(problem, x, weight, weight_offset, bias, y)


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    sampling_offset: Tensor,
    weight_offset: Tensor | None,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needs: Sequence[bool],
) -> Grads:
    """Return the gradients in x, weight, both offsets and mask; ``needs`` says which, the others are empty.

    ``grad`` is ``(B, O, H', W')``; each gradient has the shape of its argument.
    """
    problem = _Problem(x, weight, sampling_offset, mask, stride, padding, dilation, groups)
    results = (
        empty_like_layout(x, x.shape) if needs[0] else x.new_empty(0),
        x.new_empty(weight.shape) if needs[1] else x.new_empty(0),
        x.new_empty(sampling_offset.shape) if needs[2] else x.new_empty(0),
        x.new_empty((*x.shape[:2], *problem.kernel)) if needs[3] else x.new_empty(0),
        x.new_empty((x.shape[0], problem.taps, *problem.out_size)) if needs[4] else x.new_empty(0),
    )
    differentiate = _depthwise_backward if problem.depthwise else _dense_backward
    with torch.autocast("cpu", enabled=False):
        return differentiate(problem, grad, x, weight, weight_offset, results, needs)
