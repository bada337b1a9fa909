"""Contextual convolution and its gradients in Triton. See the section GPU of README.md.

A program computes a tile of P positions of one image by C channels. Inside a kernel everything has two axes;
`_by_position` and `_by_channel` say which is which. Depthwise kernels are applied while sampling; dense ones are a
matrix product with columns, the samples of a bounded number of images. Channel counts are in ``UNIT`` channels, so
that the compiler knows how far it may vectorise.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc,import-untyped"

from collections.abc import Iterator, Sequence
from math import gcd
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ctxvision.ops._geometry import empty_like_layout, is_channels_last, output_size
from ctxvision.ops.contextual_conv import reference

COLUMNS = 2**26  # numbers in the columns of one chunk of images
# ints that are never specialised: one kernel serves all batch sizes, resolutions and strides
RUNTIME = [
    "first", "images", "height", "width", "out_height", "out_width", "channels", "group_channels",
    "stride_y", "stride_x", "padding_y", "padding_x", "dilation_y", "dilation_x", "bends",
    "offset_b", "offset_n", "offset_y", "offset_x", "mask_b", "mask_n", "mask_y", "mask_x",
]  # fmt: skip

# inside the kernels -----------------------------------------------------------------------------


@triton.jit
def _at(index, stride):
    offset = tl.cast(index, tl.int64) * stride
    tl.static_assert(offset.dtype == tl.int64, "addresses have 64 bits")
    return offset


@triton.jit
def _by_position(p, CHANNELS_LAST: tl.constexpr):
    return p[:, None] if CHANNELS_LAST else p[None, :]


@triton.jit
def _by_channel(c, CHANNELS_LAST: tl.constexpr):
    # the axis that is contiguous in memory is the last one
    return c[None, :] if CHANNELS_LAST else c[:, None]


@triton.jit
def _pixel(image, index, c, count, channels, CHANNELS_LAST: tl.constexpr):
    # offset in a dense (B, C, count) or (B, count, C)
    if CHANNELS_LAST:
        offset = _at(_at(image, count) + index, channels) + c
    else:
        offset = _at(_at(image, channels) + c, count) + index
    return offset


@triton.jit
def _column(local, p, n, c, images, count, group_channels, K: tl.constexpr):
    # offset in columns (G, images, count, K, C / G)
    group = _at(_at(c // group_channels, images) + local, count) + p
    return _at(group * K + n, group_channels) + c % group_channels


@triton.jit
def _kernels_at(kernel, image, n, c, channels, bends, K: tl.constexpr):
    # offset in the kernels (B or 1, K, C)
    return kernel + (_at(_at(image, bends) * K + n, channels) + c)


@triton.jit
def _sample(offset, mask, n, row, column, live, height, width,
            stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, offset_n, mask_n,
            KW: tl.constexpr, HAS_MASK: tl.constexpr, CHANNELS_LAST: tl.constexpr):  # fmt: skip
    # upper row and left column of the pixels around a sample, the fractions, the modulation, whether it is one;
    # loaded along one axis, so that a thread loads none twice
    y = (row * stride_y - padding_y + n // KW * dilation_y).to(tl.float32)
    x = (column * stride_x - padding_x + n % KW * dilation_x).to(tl.float32)
    y += tl.load(offset + _at(2 * n, offset_n), live, other=0).to(tl.float32)
    x += tl.load(offset + _at(2 * n + 1, offset_n), live, other=0).to(tl.float32)
    # two pixels outside is as far as any distance; comparisons keep NaN
    y = tl.where(y < -2, -2.0, tl.where(y > height + 1, height + 1.0, y))
    x = tl.where(x < -2, -2.0, tl.where(x > width + 1, width + 1.0, x))
    top, left = tl.floor(y), tl.floor(x)
    modulation = tl.zeros_like(y) + 1
    if HAS_MASK:
        modulation = tl.load(mask + _at(n, mask_n), live, other=0).to(tl.float32)
    return (
        _by_position(top, CHANNELS_LAST), _by_position(left, CHANNELS_LAST),
        _by_position(y - top, CHANNELS_LAST), _by_position(x - left, CHANNELS_LAST),
        _by_position(modulation, CHANNELS_LAST), _by_position(live, CHANNELS_LAST),
    )  # fmt: skip


@triton.jit
def _corner(top, left, live, height, width, step, DOWN: tl.constexpr, RIGHT: tl.constexpr):
    # offset of a pixel from the image's first one, and whether it is inside; false for NaN
    row, column = top + DOWN, left + RIGHT
    inside = live & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    row, column = tl.where(inside, row, 0).to(tl.int32), tl.where(inside, column, 0).to(tl.int32)
    return _at(row * width + column, step), inside


@triton.jit
def _read(x, top, left, live, seen, height, width, step, DOWN: tl.constexpr, RIGHT: tl.constexpr):
    at, inside = _corner(top, left, live, height, width, step, DOWN, RIGHT)
    return tl.load(x + at, inside & seen, other=0).to(tl.float32)


@triton.jit
def _interpolate(x, top, left, fy, fx, modulation, live, seen, height, width, step):
    upper, lower = (1 - fy) * modulation, fy * modulation
    value = _read(x, top, left, live, seen, height, width, step, 0, 0) * (upper * (1 - fx))
    value += _read(x, top, left, live, seen, height, width, step, 0, 1) * (upper * fx)
    value += _read(x, top, left, live, seen, height, width, step, 1, 0) * (lower * (1 - fx))
    return value + _read(x, top, left, live, seen, height, width, step, 1, 1) * (lower * fx)


@triton.jit(do_not_specialize=RUNTIME)
def _forward_kernel(
    x, kernel, offset, mask, bias, result,
    first, images, height, width, out_height, out_width, channels, group_channels, bends,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    offset_b: tl.int64, offset_n: tl.int64, offset_y: tl.int64, offset_x: tl.int64,
    mask_b: tl.int64, mask_n: tl.int64, mask_y: tl.int64, mask_x: tl.int64,
    K: tl.constexpr, KW: tl.constexpr, DEPTHWISE: tl.constexpr, HAS_MASK: tl.constexpr, HAS_BIAS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, UNIT: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    channels, group_channels = channels * UNIT, group_channels * UNIT
    count, tiles_c = out_height * out_width, tl.cdiv(channels, C)
    program = tl.program_id(0)
    c = _by_channel(program % tiles_c * C + tl.arange(0, C), CHANNELS_LAST)
    p = program // tiles_c % tl.cdiv(count, P) * P + tl.arange(0, P)
    local = program // (tiles_c * tl.cdiv(count, P))
    image = local + first
    row, column, inside, seen = p // out_width, p % out_width, p < count, c < channels

    x += _pixel(image, 0, c, height * width, channels, CHANNELS_LAST)
    step = channels if CHANNELS_LAST else 1
    offset += _at(image, offset_b) + _at(row, offset_y) + _at(column, offset_x)
    mask += _at(image, mask_b) + _at(row, mask_y) + _at(column, mask_x)
    p = _by_position(p, CHANNELS_LAST)
    total = tl.zeros_like((p < count) & seen).to(tl.float32)
    for n in range(K):
        top, left, fy, fx, modulation, live = _sample(
            offset, mask, n, row, column, inside, height, width, stride_y, stride_x, padding_y, padding_x,
            dilation_y, dilation_x, offset_n, mask_n, KW, HAS_MASK, CHANNELS_LAST,
        )  # fmt: skip
        value = _interpolate(x, top, left, fy, fx, modulation, live, seen, height, width, step)
        if DEPTHWISE:
            total += value * tl.load(_kernels_at(kernel, image, n, c, channels, bends, K), seen, other=0)
        else:
            at = _column(local, p, n, c, images, count, group_channels, K)
            tl.store(result + at, value, live & seen)
    if DEPTHWISE:
        if HAS_BIAS:
            total += tl.load(bias + _at(c, 1), seen, other=0).to(tl.float32)
        tl.store(result + _pixel(image, p, c, count, channels, CHANNELS_LAST), total, (p < count) & seen)


@triton.jit
def _scatter(grad_x, value, coefficient, top, left, live, seen, height, width, step, DOWN: tl.constexpr,
             RIGHT: tl.constexpr):  # fmt: skip
    at, inside = _corner(top, left, live, height, width, step, DOWN, RIGHT)
    tl.atomic_add(grad_x + at, value * coefficient, inside & seen, sem="relaxed")


@triton.jit(do_not_specialize=RUNTIME)
def _position_kernel(
    grad, x, kernel, offset, mask, grad_x, grad_offset, grad_mask,
    first, images, height, width, out_height, out_width, channels, group_channels, bends,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    offset_b: tl.int64, offset_n: tl.int64, offset_y: tl.int64, offset_x: tl.int64,
    mask_b: tl.int64, mask_n: tl.int64, mask_y: tl.int64, mask_x: tl.int64,
    K: tl.constexpr, KW: tl.constexpr, DEPTHWISE: tl.constexpr, HAS_MASK: tl.constexpr,
    NEEDS_X: tl.constexpr, NEEDS_OFFSET: tl.constexpr, NEEDS_MASK: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, UNIT: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    # one tap of a tile of positions, all channels; `grad` is that of y, or of the columns
    AXIS: tl.constexpr = 1 if CHANNELS_LAST else 0
    channels, group_channels = channels * UNIT, group_channels * UNIT
    count = out_height * out_width
    program = tl.program_id(0)
    p = program % tl.cdiv(count, P) * P + tl.arange(0, P)
    n, local = program // tl.cdiv(count, P) % K, program // tl.cdiv(count, P) // K
    image = local + first
    row, column = p // out_width, p % out_width
    offset += _at(image, offset_b) + _at(row, offset_y) + _at(column, offset_x)
    mask += _at(image, mask_b) + _at(row, mask_y) + _at(column, mask_x)
    top, left, fy, fx, modulation, live = _sample(
        offset, mask, n, row, column, p < count, height, width, stride_y, stride_x, padding_y, padding_x,
        dilation_y, dilation_x, offset_n, mask_n, KW, HAS_MASK, CHANNELS_LAST,
    )  # fmt: skip
    p = _by_position(p, CHANNELS_LAST)
    upper, lower = (1 - fy) * modulation, fy * modulation
    step = channels if CHANNELS_LAST else 1
    channel = _by_channel(tl.arange(0, C), CHANNELS_LAST)
    sum00 = tl.zeros_like(live & (channel < C)).to(tl.float32)
    sum01, sum10, sum11 = sum00, sum00, sum00
    for start in range(0, channels, C):
        c = start + channel
        seen = c < channels
        if DEPTHWISE:
            value = tl.load(grad + _pixel(image, p, c, count, channels, CHANNELS_LAST), live & seen, other=0)
            value = value.to(tl.float32)
            value *= tl.load(_kernels_at(kernel, image, n, c, channels, bends, K), seen, other=0)
        else:
            at = _column(local, p, n, c, images, count, group_channels, K)
            value = tl.load(grad + at, live & seen, other=0).to(tl.float32)
        first_pixel = _pixel(image, 0, c, height * width, channels, CHANNELS_LAST)
        if NEEDS_OFFSET or NEEDS_MASK:
            sum00 += value * _read(x + first_pixel, top, left, live, seen, height, width, step, 0, 0)
            sum01 += value * _read(x + first_pixel, top, left, live, seen, height, width, step, 0, 1)
            sum10 += value * _read(x + first_pixel, top, left, live, seen, height, width, step, 1, 0)
            sum11 += value * _read(x + first_pixel, top, left, live, seen, height, width, step, 1, 1)
        if NEEDS_X:
            at = grad_x + first_pixel
            _scatter(at, value, upper * (1 - fx), top, left, live, seen, height, width, step, 0, 0)
            _scatter(at, value, upper * fx, top, left, live, seen, height, width, step, 0, 1)
            _scatter(at, value, lower * (1 - fx), top, left, live, seen, height, width, step, 1, 0)
            _scatter(at, value, lower * fx, top, left, live, seen, height, width, step, 1, 1)
    if NEEDS_OFFSET or NEEDS_MASK:
        top_left, top_right = tl.sum(sum00, AXIS, keep_dims=True), tl.sum(sum01, AXIS, keep_dims=True)
        bottom_left, bottom_right = tl.sum(sum10, AXIS, keep_dims=True), tl.sum(sum11, AXIS, keep_dims=True)
        upper = top_left + fx * (top_right - top_left)
        lower = bottom_left + fx * (bottom_right - bottom_left)
        right = top_right - top_left
        right += fy * (bottom_right - bottom_left - right)
        tap = _at(image, K) + n  # of (B, K)
        if NEEDS_MASK:
            tl.store(grad_mask + (_at(tap, count) + p), upper + fy * (lower - upper), live)
        if NEEDS_OFFSET:
            tl.store(grad_offset + (_at(2 * tap, count) + p), (lower - upper) * modulation, live)
            tl.store(grad_offset + (_at(2 * tap + 1, count) + p), right * modulation, live)


@triton.jit(do_not_specialize=RUNTIME)
def _kernel_kernel(
    grad, x, offset, mask, result,
    first, images, height, width, out_height, out_width, channels, group_channels, bends,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    offset_b: tl.int64, offset_n: tl.int64, offset_y: tl.int64, offset_x: tl.int64,
    mask_b: tl.int64, mask_n: tl.int64, mask_y: tl.int64, mask_x: tl.int64,
    K: tl.constexpr, KW: tl.constexpr, HAS_MASK: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, UNIT: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    # depthwise: one tap of one image, a tile of channels, all positions
    channels, count = channels * UNIT, out_height * out_width
    program = tl.program_id(0)
    channel = program % tl.cdiv(channels, C) * C + tl.arange(0, C)
    c = _by_channel(channel, CHANNELS_LAST)
    n, image = program // tl.cdiv(channels, C) % K, program // tl.cdiv(channels, C) // K
    seen = c < channels
    x += _pixel(image, 0, c, height * width, channels, CHANNELS_LAST)
    step = channels if CHANNELS_LAST else 1
    total = tl.zeros_like(seen & (_by_position(tl.arange(0, P), CHANNELS_LAST) < P)).to(tl.float32)
    for start in range(0, count, P):
        p = start + tl.arange(0, P)
        row, column = p // out_width, p % out_width
        top, left, fy, fx, modulation, live = _sample(
            offset + (_at(image, offset_b) + _at(row, offset_y) + _at(column, offset_x)),
            mask + (_at(image, mask_b) + _at(row, mask_y) + _at(column, mask_x)),
            n, row, column, p < count, height, width, stride_y, stride_x, padding_y, padding_x,
            dilation_y, dilation_x, offset_n, mask_n, KW, HAS_MASK, CHANNELS_LAST,
        )  # fmt: skip
        value = _interpolate(x, top, left, fy, fx, modulation, live, seen, height, width, step)
        at = _pixel(image, _by_position(p, CHANNELS_LAST), c, count, channels, CHANNELS_LAST)
        total += value * tl.load(grad + at, live & seen, other=0).to(tl.float32)
    total = tl.sum(total, 0 if CHANNELS_LAST else 1)
    tl.store(result + (_at(_at(image, K) + n, channels) + channel), total, channel < channels)


# launching --------------------------------------------------------------------------------------


def _dense(tensor: Tensor, channels_last: bool) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _blocks(channels: int, channels_last: bool, itemsize: int) -> dict[str, int]:
    """Return the tile of a program: positions, channels. It knows channels and dtype, but no sizes."""
    channels = max(1, channels)
    widest = min(triton.next_power_of_2(channels), 64 if channels_last else 32)
    tile = gcd(channels, widest)
    tile = tile if tile >= 16 else widest
    return {"P": (2048 // itemsize if channels_last else 1024) // tile, "C": tile}


def _arguments(
    x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int, channels_last: bool,
) -> dict[str, Any]:  # fmt: skip
    """Return what all kernels take but tensors and images."""
    channels, group_channels = x.shape[1], weight.shape[1]
    unit = gcd(
        16 // x.element_size(), group_channels if groups > 1 and not _depthwise(weight, groups) else channels
    )
    unit = unit if channels_last else 1
    steps = {f"offset_{axis}": step for axis, step in zip("bnyx", offset.stride(), strict=True)}
    for axis, step in zip("bnyx", (0,) * 4 if mask is None else mask.stride(), strict=True):
        steps[f"mask_{axis}"] = step
    return {
        "height": x.shape[2], "width": x.shape[3], "out_height": offset.shape[2], "out_width": offset.shape[3],
        "channels": channels // unit, "group_channels": group_channels // unit,
        "stride_y": stride[0], "stride_x": stride[1], "padding_y": padding[0], "padding_x": padding[1],
        "dilation_y": dilation[0], "dilation_x": dilation[1],
        **steps,
        "K": weight.shape[2] * weight.shape[3], "KW": weight.shape[3], "HAS_MASK": mask is not None,
        "CHANNELS_LAST": channels_last, "UNIT": unit,
        **_blocks(channels, channels_last, x.element_size()), "num_warps": 4,
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
    x: Tensor, offset: Tensor, mask: Tensor | None, first: int, images: int, groups: int, arguments: dict[str, Any]
) -> Tensor:
    """Return the samples of some images as columns, (G, images * P, K * C / G)."""
    count, taps = offset.shape[2] * offset.shape[3], arguments["K"]
    columns = x.new_empty(groups, images * count, taps * (x.shape[1] // groups))
    tiles = triton.cdiv(count, arguments["P"]) * triton.cdiv(x.shape[1], arguments["C"])
    with torch.cuda.device_of(x):
        _forward_kernel[(images * tiles,)](
            x, x, offset, offset if mask is None else mask, x, columns,
            first=first, images=images, bends=0, DEPTHWISE=False, HAS_BIAS=False, **arguments,
        )  # fmt: skip
    return columns


def _by_group(rows: Tensor, groups: int) -> Tensor:
    """Return (b, O, H', W') as (G, b * P, O / G)."""
    grouped: Tensor = rows.permute(0, 2, 3, 1).unflatten(3, (groups, -1))
    return grouped.permute(3, 0, 1, 2, 4).flatten(1, 3)


def contextual_conv(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
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
    arguments = _arguments(x, weight, offset, mask, stride, padding, dilation, groups, channels_last)
    if depthwise:
        kernels = _kernels(weight, weight_offset)
        tiles = triton.cdiv(count, arguments["P"]) * triton.cdiv(channels, arguments["C"])
        with torch.cuda.device_of(x):
            _forward_kernel[(batch * tiles,)](
                x, kernels, offset, offset if mask is None else mask, kernels if bias is None else bias, result,
                first=0, images=batch, bends=int(weight_offset is not None), DEPTHWISE=True,
                HAS_BIAS=bias is not None, **arguments,
            )  # fmt: skip
        return result
    taps, group_channels = arguments["K"], weight.shape[1]
    kernels = weight.reshape(groups, -1, group_channels, taps).permute(0, 3, 2, 1).flatten(1, 2)  # (G, K C/G, O/G)
    for first, images in _chunks(batch, count * taps * channels):
        columns = _sampled(x, offset, mask, first, images, groups, arguments)
        y = _product(columns, kernels)  # (G, b P, O/G)
        if weight_offset is not None:
            bends = _bends(weight_offset, first, images, groups).flatten(0, 1)
            y += _product(columns.reshape(groups * images, count, -1), bends.unsqueeze(2)).reshape(groups, -1, 1)
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


def _bends(weight_offset: Tensor, first: int, images: int, groups: int) -> Tensor:
    """Return the kernel offsets of some images as (G, b, K * C / G)."""
    bends: Tensor = weight_offset[first : first + images].flatten(2).unflatten(1, (groups, -1))  # (b, G, C/G, K)
    return bends.permute(1, 0, 3, 2).flatten(2)


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    weight_offset: Tensor | None,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of (x, weight, offset, weight_offset, mask); an empty tensor where not needed."""
    tensors, geometry = (grad, x, weight, offset, weight_offset, mask), (stride, padding, dilation, groups)
    if grad.numel() == 0 or x.numel() == 0:
        return reference.backward(*tensors, *geometry, needs)
    if needs[0] and torch.are_deterministic_algorithms_enabled():
        # atomic additions have no order; `index_add_` has one where torch is asked for it
        grad_x = reference.backward(*tensors, *geometry, [True, False, False, False, False])[0]
        return grad_x, *_gradients(*tensors, *geometry, [False, *needs[1:]])[1:]
    return _gradients(*tensors, *geometry, needs)


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, offset: Tensor, weight_offset: Tensor | None, mask: Tensor | None,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int, needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return what `backward` does, for tensors that are not empty; the gradient in x by atomic additions."""
    grad_x = empty_like_layout(x, x.shape) if needs[0] else x.new_empty(0)
    grad_offset = x.new_empty(offset.shape) if needs[2] else x.new_empty(0)
    taps = weight.shape[2] * weight.shape[3]
    grad_mask = x.new_empty((x.shape[0], taps, *offset.shape[2:]) if needs[4] else 0)
    depthwise = _depthwise(weight, groups)
    channels_last = is_channels_last(x) or not depthwise
    x, grad = _dense(x, channels_last), _dense(grad, channels_last)
    total = torch.zeros_like(x, dtype=torch.float32) if needs[0] else grad_x
    arguments = _arguments(x, weight, offset, mask, stride, padding, dilation, groups, channels_last)
    solve = _depthwise_gradients if depthwise else _dense_gradients
    by_kernel, by_bend = solve(
        grad, x, weight, offset, weight_offset, mask, total, grad_offset, grad_mask, groups, needs, arguments
    )
    return (
        grad_x.copy_(total) if needs[0] else grad_x,
        by_kernel.reshape(weight.shape).to(x.dtype) if needs[1] else x.new_empty(0),
        grad_offset,
        by_bend.reshape(*x.shape[:2], *weight.shape[2:]).to(x.dtype) if needs[3] else x.new_empty(0),
        grad_mask,
    )


def _scattered(
    grad: Tensor, x: Tensor, kernels: Tensor, offset: Tensor, mask: Tensor | None,
    grad_x: Tensor, grad_offset: Tensor, grad_mask: Tensor,
    first: int, images: int, bends: int, needs: Sequence[bool], depthwise: bool, arguments: dict[str, Any],
) -> None:  # fmt: skip
    """Fill the gradients of the positions and add to that in x."""
    if not (needs[0] or needs[2] or needs[4]):
        return
    tiles = triton.cdiv(offset.shape[2] * offset.shape[3], arguments["P"]) * arguments["K"]
    with torch.cuda.device_of(x):
        _position_kernel[(images * tiles,)](
            grad, x, kernels, offset, offset if mask is None else mask, grad_x, grad_offset, grad_mask,
            first=first, images=images, bends=bends, DEPTHWISE=depthwise,
            NEEDS_X=needs[0], NEEDS_OFFSET=needs[2], NEEDS_MASK=needs[4], **arguments,
        )  # fmt: skip


def _depthwise_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, offset: Tensor, weight_offset: Tensor | None, mask: Tensor | None,
    grad_x: Tensor, grad_offset: Tensor, grad_mask: Tensor,
    groups: int, needs: Sequence[bool], arguments: dict[str, Any],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Fill the gradients that have a place; return those of the kernel, (C, K), and its offsets, (B, C, K)."""
    batch, channels = x.shape[:2]
    kernels, bends = _kernels(weight, weight_offset), int(weight_offset is not None)
    _scattered(
        grad, x, kernels, offset, mask, grad_x, grad_offset, grad_mask,
        0, batch, bends, needs, True, arguments,
    )  # fmt: skip
    by_image = kernels.new_empty((batch, arguments["K"], channels) if needs[1] or needs[3] else 0)
    if not (needs[1] or needs[3]):
        return by_image, by_image
    with torch.cuda.device_of(x):
        _kernel_kernel[(batch * arguments["K"] * triton.cdiv(channels, arguments["C"]),)](
            grad, x, offset, offset if mask is None else mask, by_image,
            first=0, images=batch, bends=bends, **arguments,
        )  # fmt: skip
    return by_image.sum(0).t(), by_image.transpose(1, 2)


def _dense_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, offset: Tensor, weight_offset: Tensor | None, mask: Tensor | None,
    grad_x: Tensor, grad_offset: Tensor, grad_mask: Tensor,
    groups: int, needs: Sequence[bool], arguments: dict[str, Any],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Fill the gradients that have a place; return those of the kernel, (G, O / G, C / G, K), and its offsets."""
    batch, channels, taps, count = *x.shape[:2], arguments["K"], offset.shape[2] * offset.shape[3]
    kernels = weight.reshape(groups, -1, weight.shape[1], taps).transpose(2, 3).flatten(2)  # (G, O/G, K C/G)
    by_kernel = torch.zeros_like(kernels, dtype=torch.float32)
    by_bend = []
    for first, images in _chunks(batch, count * taps * channels):
        rows = _by_group(grad[first : first + images], groups)  # (G, b P, O/G)
        summed = rows.sum(2, dtype=torch.float32).unflatten(1, (images, count))  # what a kernel offset sees of y
        if needs[1] or needs[3]:
            columns = _sampled(x, offset, mask, first, images, groups, arguments)
            by_kernel += _product(rows.transpose(1, 2), columns)
            columns = columns.reshape(groups * images, count, -1)
            by_image = _product(summed.to(x.dtype).reshape(groups * images, 1, count), columns)
            by_bend.append(by_image.reshape(groups, images, taps, -1).permute(1, 0, 3, 2))  # (b, G, C/G, K)
        if needs[0] or needs[2] or needs[4]:
            columns = _product(rows, kernels)  # the gradient of the columns
            if weight_offset is not None:
                bends = _bends(weight_offset, first, images, groups).unsqueeze(2)
                columns.unflatten(1, (images, count)).addcmul_(summed.unsqueeze(-1), bends)
            _scattered(
                columns, x, x, offset, mask, grad_x, grad_offset, grad_mask,
                first, images, 0, needs, False, arguments,
            )  # fmt: skip
    kernel_shape = (groups, weight.shape[0] // groups, taps, weight.shape[1])
    return by_kernel.reshape(kernel_shape).transpose(2, 3), torch.cat(by_bend) if by_bend else by_kernel
