"""Contextual convolution and its gradients in Triton. See the section GPU of README.md."""
# mypy: disable-error-code="import-untyped"

from collections.abc import Iterator, Sequence
from math import gcd
from typing import Any

import torch
import triton
from torch import Tensor

from ctxvision.ops._geometry import empty_like_layout, is_channels_last, output_size

from . import reference
from ._triton_kernels import _forward_kernel, _kernel_kernel, _position_kernel

COLUMNS = 2**26  # numbers in the columns of one chunk of images


def _dense(tensor: Tensor, channels_last: bool) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _blocks(channels: int, channels_last: bool, itemsize: int) -> dict[str, int]:
    """Return positions, channels and warps of a program: its tile. It knows channels and dtype, no sizes."""
    channels = max(1, channels)
    widest = min(triton.next_power_of_2(channels), 64 if channels_last else 32)
    tile = gcd(channels, widest)
    tile = tile if tile >= 16 else widest
    return {"P": (2048 // itemsize if channels_last else 1024) // tile, "C": tile, "num_warps": 4}


def _arguments(
    x: Tensor, weight: Tensor, sampling_offset: Tensor, mask: Tensor | None,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int, channels_last: bool,
) -> dict[str, Any]:  # fmt: skip
    """Return what all kernels take but tensors and images."""
    channels, group_channels = x.shape[1], weight.shape[1]
    unit = gcd(
        16 // x.element_size(), group_channels if groups > 1 and not _depthwise(weight, groups) else channels
    )
    unit = unit if channels_last else 1
    steps = {f"sampling_offset_{axis}": step for axis, step in zip("bnyx", sampling_offset.stride(), strict=True)}
    for axis, step in zip("bnyx", (0,) * 4 if mask is None else mask.stride(), strict=True):
        steps[f"mask_{axis}"] = step
    return {
        "height": x.shape[2], "width": x.shape[3],
        "out_height": sampling_offset.shape[2], "out_width": sampling_offset.shape[3],
        "channels": channels // unit, "group_channels": group_channels // unit,
        "stride_y": stride[0], "stride_x": stride[1], "padding_y": padding[0], "padding_x": padding[1],
        "dilation_y": dilation[0], "dilation_x": dilation[1],
        **steps,
        "K": weight.shape[2] * weight.shape[3], "KW": weight.shape[3], "HAS_MASK": mask is not None,
        "CHANNELS_LAST": channels_last, "UNIT": unit,
        **_blocks(channels, channels_last, x.element_size()),
    }  # fmt: skip


def _depthwise(weight: Tensor, groups: int) -> bool:
    return weight.shape[1] == 1 and weight.shape[0] == groups


def _kernels(weight: Tensor, weight_offset: Tensor | None) -> Tensor:
    """Return the kernels of a depthwise convolution as (B or 1, K, C) in float32."""
    kernels = weight.float().flatten(1)[None]
    if weight_offset is not None:
        kernels = kernels + weight_offset.float().flatten(2)
    return kernels.transpose(1, 2).contiguous()


def _chunks(batch: int, per_image: int) -> Iterator[tuple[int, int]]:
    """Yield first image and number of images, so many that their columns fit into `COLUMNS`."""
    images = max(1, COLUMNS // max(1, per_image))
    for first in range(0, batch, images):
        yield first, min(images, batch - first)


def _sampled(
    x: Tensor,
    sampling_offset: Tensor,
    mask: Tensor | None,
    first: int,
    images: int,
    groups: int,
    arguments: dict[str, Any],
) -> Tensor:
    """Return the samples of some images as columns, (G, images * P, K * C / G)."""
    count, taps = sampling_offset.shape[2] * sampling_offset.shape[3], arguments["K"]
    columns = x.new_empty(groups, images * count, taps * (x.shape[1] // groups))
    tiles = triton.cdiv(count, arguments["P"]) * triton.cdiv(x.shape[1], arguments["C"])
    with torch.cuda.device_of(x):
        _forward_kernel[(images * tiles,)](
            x, x, sampling_offset, sampling_offset if mask is None else mask, x, columns,
            first=first, images=images, per_image=0, DEPTHWISE=False, HAS_BIAS=False, **arguments,
        )  # fmt: skip
    return columns


def _by_group(rows: Tensor, groups: int) -> Tensor:
    """Return (b, O, H', W') as (G, b * P, O / G)."""
    grouped: Tensor = rows.permute(0, 2, 3, 1).unflatten(3, (groups, -1))
    return grouped.permute(3, 0, 1, 2, 4).flatten(1, 3)


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
    batch, channels, out_channels = *x.shape[:2], weight.shape[0]
    size = output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    result, count = empty_like_layout(x, (batch, out_channels, *size)), size[0] * size[1]
    if result.numel() == 0:
        return result
    depthwise = _depthwise(weight, groups)
    channels_last = is_channels_last(x) or not depthwise
    x = _dense(x, channels_last)
    arguments = _arguments(x, weight, sampling_offset, mask, stride, padding, dilation, groups, channels_last)
    if depthwise:
        kernels = _kernels(weight, weight_offset)
        tiles = triton.cdiv(count, arguments["P"]) * triton.cdiv(channels, arguments["C"])
        with torch.cuda.device_of(x):
            _forward_kernel[(batch * tiles,)](
                x, kernels, sampling_offset, sampling_offset if mask is None else mask,
                kernels if bias is None else bias.contiguous(), result,
                first=0, images=batch, per_image=int(weight_offset is not None), DEPTHWISE=True,
                HAS_BIAS=bias is not None, **arguments,
            )  # fmt: skip
        return result
    taps, group_channels = arguments["K"], weight.shape[1]
    kernels = weight.reshape(groups, -1, group_channels, taps).permute(0, 3, 2, 1).flatten(1, 2)  # (G, K C/G, O/G)
    for first, images in _chunks(batch, count * taps * channels):
        columns = _sampled(x, sampling_offset, mask, first, images, groups, arguments)
        y = _product(columns, kernels)  # (G, b P, O/G)
        if weight_offset is not None:
            weight_offsets = _weight_offsets(weight_offset, first, images, groups).flatten(0, 1)
            y += _product(columns.reshape(groups * images, count, -1), weight_offsets.unsqueeze(2)).reshape(
                groups, -1, 1
            )
        if bias is not None:
            y += bias.reshape(groups, 1, -1)
        y = y.reshape(groups, images, *size, out_channels // groups).permute(1, 0, 4, 2, 3)
        result[first : first + images].unflatten(1, (groups, -1)).copy_(y)
    return result


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Return the batched matrix product in float32, of the precision that torch is set to."""
    if a.dtype == torch.float32:
        return torch.bmm(a, b)
    if a.is_cuda and torch.version.hip is None:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())


def _weight_offsets(weight_offset: Tensor, first: int, images: int, groups: int) -> Tensor:
    """Return the kernel offsets of some images as (G, b, K * C / G)."""
    own = weight_offset[first : first + images].flatten(2)
    by_group: Tensor = own.unflatten(1, (groups, -1))  # (b, G, C/G, K)
    return by_group.permute(1, 0, 3, 2).flatten(2)


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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients in x, weight, both offsets and mask; ``needs`` says which, the others are empty.

    ``grad`` is ``(B, O, H', W')``; each gradient has the shape of its argument.
    """
    tensors = (grad, x, weight, sampling_offset, weight_offset, mask)
    geometry = (stride, padding, dilation, groups)
    if grad.numel() == 0 or x.numel() == 0:
        return reference.backward(*tensors, *geometry, needs)
    if needs[0] and torch.are_deterministic_algorithms_enabled():
        # atomic additions have no order; `index_add_` has one where torch is asked for it
        grad_x = reference.backward(*tensors, *geometry, [True, False, False, False, False])[0]
        return grad_x, *_gradients(*tensors, *geometry, [False, *needs[1:]])[1:]
    return _gradients(*tensors, *geometry, needs)


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, sampling_offset: Tensor,
    weight_offset: Tensor | None, mask: Tensor | None,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int, needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return what `backward` does, for tensors that are not empty; the gradient in x by atomic additions."""
    grad_x = empty_like_layout(x, x.shape) if needs[0] else x.new_empty(0)
    grad_sampling_offset = x.new_empty(sampling_offset.shape) if needs[2] else x.new_empty(0)
    taps = weight.shape[2] * weight.shape[3]
    grad_mask = x.new_empty((x.shape[0], taps, *sampling_offset.shape[2:]) if needs[4] else 0)
    depthwise = _depthwise(weight, groups)
    channels_last = is_channels_last(x) or not depthwise
    x, grad = _dense(x, channels_last), _dense(grad, channels_last)
    total = torch.zeros_like(x, dtype=torch.float32) if needs[0] else grad_x
    arguments = _arguments(x, weight, sampling_offset, mask, stride, padding, dilation, groups, channels_last)
    solve = _depthwise_gradients if depthwise else _dense_gradients
    by_kernel, by_weight_offset = solve(
        grad, x, weight, sampling_offset, weight_offset, mask, total, grad_sampling_offset, grad_mask,
        groups, needs, arguments,
    )  # fmt: skip
    return (
        grad_x.copy_(total) if needs[0] else grad_x,
        by_kernel.reshape(weight.shape).to(x.dtype).contiguous() if needs[1] else x.new_empty(0),
        grad_sampling_offset,
        by_weight_offset.reshape(*x.shape[:2], *weight.shape[2:]).to(x.dtype).contiguous()
        if needs[3]
        else x.new_empty(0),
        grad_mask,
    )


def _scattered(
    grad: Tensor, x: Tensor, kernels: Tensor, sampling_offset: Tensor, mask: Tensor | None,
    grad_x: Tensor, grad_sampling_offset: Tensor, grad_mask: Tensor,
    first: int, images: int, per_image: int, needs: Sequence[bool], depthwise: bool, arguments: dict[str, Any],
) -> None:  # fmt: skip
    """Fill the gradients of the positions and add to that in x."""
    if not (needs[0] or needs[2] or needs[4]):
        return
    tiles = triton.cdiv(sampling_offset.shape[2] * sampling_offset.shape[3], arguments["P"]) * arguments["K"]
    with torch.cuda.device_of(x):
        _position_kernel[(images * tiles,)](
            grad, x, kernels, sampling_offset, sampling_offset if mask is None else mask,
            grad_x, grad_sampling_offset, grad_mask,
            first=first, images=images, per_image=per_image, DEPTHWISE=depthwise,
            NEEDS_X=needs[0], NEEDS_SAMPLING_OFFSET=needs[2], NEEDS_MASK=needs[4], **arguments,
        )  # fmt: skip


def _depthwise_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, sampling_offset: Tensor,
    weight_offset: Tensor | None, mask: Tensor | None,
    grad_x: Tensor, grad_sampling_offset: Tensor, grad_mask: Tensor,
    groups: int, needs: Sequence[bool], arguments: dict[str, Any],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Fill the gradients that have a place; return those of the kernel, (C, K), and its offsets, (B, C, K)."""
    batch, channels = x.shape[:2]
    kernels, per_image = _kernels(weight, weight_offset), int(weight_offset is not None)
    _scattered(
        grad, x, kernels, sampling_offset, mask, grad_x, grad_sampling_offset, grad_mask,
        0, batch, per_image, needs, True, arguments,
    )  # fmt: skip
    by_image = kernels.new_empty((batch, arguments["K"], channels) if needs[1] or needs[3] else 0)
    if not (needs[1] or needs[3]):
        return by_image, by_image
    with torch.cuda.device_of(x):
        _kernel_kernel[(batch * arguments["K"] * triton.cdiv(channels, arguments["C"]),)](
            grad, x, sampling_offset, sampling_offset if mask is None else mask, by_image,
            first=0, images=batch, per_image=per_image, **arguments,
        )  # fmt: skip
    return by_image.sum(0).t(), by_image.transpose(1, 2)


def _dense_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, sampling_offset: Tensor,
    weight_offset: Tensor | None, mask: Tensor | None,
    grad_x: Tensor, grad_sampling_offset: Tensor, grad_mask: Tensor,
    groups: int, needs: Sequence[bool], arguments: dict[str, Any],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Fill the gradients that have a place; return those of the kernel, (G, O / G, C / G, K), and its offsets."""
    (batch, channels), taps = x.shape[:2], arguments["K"]
    count = sampling_offset.shape[2:].numel()
    kernels = weight.reshape(groups, -1, weight.shape[1], taps).transpose(2, 3).flatten(2)  # (G, O/G, K C/G)
    by_kernel = torch.zeros_like(kernels, dtype=torch.float32)
    by_weight_offset = []
    for first, images in _chunks(batch, count * taps * channels):
        rows = _by_group(grad[first : first + images], groups)  # (G, b P, O/G)
        # what a weight offset sees of y
        summed = rows.sum(2, dtype=torch.float32).unflatten(1, (images, count))
        if needs[1] or needs[3]:
            columns = _sampled(x, sampling_offset, mask, first, images, groups, arguments)
            by_kernel += _product(rows.transpose(1, 2), columns)
            columns = columns.reshape(groups * images, count, -1)
            by_image = _product(summed.to(x.dtype).reshape(groups * images, 1, count), columns)
            by_image = by_image.reshape(groups, images, taps, -1).permute(1, 0, 3, 2)  # (b, G, C/G, K)
            by_weight_offset.append(by_image)
        if needs[0] or needs[2] or needs[4]:
            columns = _product(rows, kernels)  # the gradient of the columns
            if weight_offset is not None:
                weight_offsets = _weight_offsets(weight_offset, first, images, groups).unsqueeze(2)
                columns.unflatten(1, (images, count)).addcmul_(summed.unsqueeze(-1), weight_offsets)
            _scattered(
                columns, x, x, sampling_offset, mask, grad_x, grad_sampling_offset, grad_mask,
                first, images, 0, needs, False, arguments,
            )  # fmt: skip
    kernel_shape = (groups, weight.shape[0] // groups, taps, weight.shape[1])
    by_kernel = by_kernel.reshape(kernel_shape).transpose(2, 3)
    return by_kernel, torch.cat(by_weight_offset) if by_weight_offset else by_kernel
