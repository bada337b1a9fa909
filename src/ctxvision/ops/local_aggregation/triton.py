"""Local aggregation and its two adjoints in Triton, in gather form: no atomics. See the section GPU of README.md.

A program computes a tile of P strips (``STRIP`` rows of one column of an image) by G groups by S of the channels that
share a map. Inside a kernel everything has three axes; `_by_strip`, `_by_group` and `_by_share` say which is which. Strides of channels-last tensors
count ``UNIT`` elements, so that the compiler knows how far it may vectorise.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc,import-untyped"

from collections.abc import Sequence
from math import gcd, isqrt
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ctxvision.ops._geometry import empty_like_layout

# ints that are never specialised: one kernel serves all batch sizes, resolutions and strides
RUNTIME = [
    "batch", "height", "width", "source_height", "source_width", "groups", "shared",
    "stride_y", "stride_x", "padding_y", "padding_x", "dilation_y", "dilation_x",
    "source_b", "source_c", "source_y", "source_x", "grad_b", "grad_c", "grad_y", "grad_x",
    "weight_b", "weight_g", "weight_n", "weight_y", "weight_x", "result_b", "result_c", "result_y", "result_x",
]  # fmt: skip

# inside the kernels -----------------------------------------------------------------------------


@triton.jit
def _at(index, stride):
    offset = tl.cast(index, tl.int64) * stride
    tl.static_assert(offset.dtype == tl.int64, "addresses have 64 bits")
    return offset


@triton.jit
def _by_strip(p, CHANNELS_LAST: tl.constexpr):
    return p[:, None, None] if CHANNELS_LAST else p[None, None, :]


@triton.jit
def _by_group(g, CHANNELS_LAST: tl.constexpr, INTERLEAVED: tl.constexpr):
    # the axis that is contiguous in memory is the last one
    if CHANNELS_LAST and INTERLEAVED:
        g = g[None, None, :]
    elif CHANNELS_LAST:
        g = g[None, :, None]
    else:
        g = g[:, None, None]
    return g


@triton.jit
def _by_share(s, CHANNELS_LAST: tl.constexpr, INTERLEAVED: tl.constexpr):
    return s[None, None, :] if CHANNELS_LAST and not INTERLEAVED else s[None, :, None]


@triton.jit
def _strips(program, batch, height, width, STRIP: tl.constexpr, P: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    # image, first row and column of each strip, and whether there is such a strip
    p = _by_strip(tl.cast(program, tl.int64) * P + tl.arange(0, P), CHANNELS_LAST)
    strips = tl.cdiv(height, STRIP) * width
    image, p = p // strips, (p % strips).to(tl.int32)
    return image, p // width * STRIP, p % width, image < batch


@triton.jit
def _channel(g, s, groups, shared, stride, CHANNELS_LAST: tl.constexpr, INTERLEAVED: tl.constexpr):
    if INTERLEAVED:
        channel = _at(s, groups) + g
    else:
        channel = _at(g, shared) + s
    if not CHANNELS_LAST:
        channel = _at(channel, stride)
    return channel


@triton.jit
def _tap(index, tap, stride, padding, dilation, size, ADJOINT: tl.constexpr):
    # where a tap of position `index` reads, and whether that is inside; the adjoint asks who reads `index`
    if ADJOINT:
        numerator = index + padding - tap * dilation
        position = numerator // stride
        inside = (numerator >= 0) & (numerator % stride == 0) & (position < size)
    else:
        position = index * stride - padding + tap * dilation
        inside = (position >= 0) & (position < size)
    return position, inside


@triton.jit
def _add(total, value, maps, seen, row, height, v, weight_n, weight_y, T: tl.constexpr, U: tl.constexpr,
         K: tl.constexpr, ADJOINT: tl.constexpr):  # fmt: skip
    # row T of the strip gets the value through tap (U, v), if that is one
    if (U >= 0) and (U < K):
        maps += _at(U * K + v, weight_n)
        if not ADJOINT:
            maps += T * weight_y
            seen = seen & (row + T < height)
        total += value * tl.load(maps, seen, other=0).to(tl.float32)
    return total


@triton.jit(do_not_specialize=[name for name in RUNTIME if not name.startswith("grad")])
def _gather_kernel(
    source, weight, result,
    batch, height, width, source_height, source_width, groups, shared,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    source_b: tl.int64, source_c: tl.int64, source_y: tl.int64, source_x: tl.int64,
    weight_b: tl.int64, weight_g: tl.int64, weight_n: tl.int64, weight_y: tl.int64, weight_x: tl.int64,
    result_b: tl.int64, result_c: tl.int64, result_y: tl.int64, result_x: tl.int64,
    K: tl.constexpr, ADJOINT: tl.constexpr, INTERLEAVED: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    UNIT: tl.constexpr, STRIP: tl.constexpr, P: tl.constexpr, G: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    groups = groups * UNIT if INTERLEAVED else groups
    shared = shared if INTERLEAVED else shared * UNIT
    tiles_g, tiles_s = tl.cdiv(groups, G), tl.cdiv(shared, S)
    program = tl.program_id(0)
    g = _by_group(program // tiles_s % tiles_g * G + tl.arange(0, G), CHANNELS_LAST, INTERLEAVED)
    s = _by_share(program % tiles_s * S + tl.arange(0, S), CHANNELS_LAST, INTERLEAVED)
    program = program // (tiles_s * tiles_g)
    image, row, column, live = _strips(program, batch, height, width, STRIP, P, CHANNELS_LAST)
    channels = (g < groups) & (s < shared)
    mapped = live & (g < groups)

    source += _at(image, source_b) * UNIT + _channel(g, s, groups, shared, source_c, CHANNELS_LAST, INTERLEAVED)
    maps = weight + _at(image, weight_b) + _at(g, weight_g)
    if not ADJOINT:
        maps += _at(row, weight_y) + _at(column, weight_x)
    total0 = tl.zeros_like(channels & live).to(tl.float32)
    total1, total2, total3 = total0, total0, total0
    for v in range(K):
        x, inside_x = _tap(column, v, stride_x, padding_x, dilation_x, source_width, ADJOINT)
        for e in tl.static_range(K + STRIP - 1):
            U: tl.constexpr = K - 1 - e if ADJOINT else e  # the tap of the strip's first row that reads row e
            y, inside = _tap(row, U, stride_y, padding_y, dilation_y, source_height, ADJOINT)
            inside = inside & inside_x & live
            value = tl.load(source + (_at(y, source_y) + _at(x, source_x)) * UNIT, inside & channels, other=0)
            value = value.to(tl.float32)
            at, seen = maps, mapped
            if ADJOINT:  # the maps are those of the position that is read
                at, seen = maps + (_at(y, weight_y) + _at(x, weight_x)), mapped & inside
            D: tl.constexpr = 1 if ADJOINT else -1
            total0 = _add(total0, value, at, seen, row, height, v, weight_n, weight_y, 0, U, K, ADJOINT)
            if STRIP == 4:
                total1 = _add(total1, value, at, seen, row, height, v, weight_n, weight_y, 1, U + D, K, ADJOINT)
                total2 = _add(total2, value, at, seen, row, height, v, weight_n, weight_y, 2, U + 2 * D, K, ADJOINT)
                total3 = _add(total3, value, at, seen, row, height, v, weight_n, weight_y, 3, U + 3 * D, K, ADJOINT)

    live &= channels
    result += _at(image, result_b) * UNIT + _channel(g, s, groups, shared, result_c, CHANNELS_LAST, INTERLEAVED)
    result += (_at(row, result_y) + _at(column, result_x)) * UNIT
    tl.store(result, total0, live)
    if STRIP == 4:
        tl.store(result + result_y * UNIT, total1, live & (row + 1 < height))
        tl.store(result + 2 * result_y * UNIT, total2, live & (row + 2 < height))
        tl.store(result + 3 * result_y * UNIT, total3, live & (row + 3 < height))


@triton.jit
def _write(result, value, grad, live, row, height, v, result_n, result_y, T: tl.constexpr, U: tl.constexpr,
           K: tl.constexpr, AXIS: tl.constexpr):  # fmt: skip
    # tap (U, v) of row T of the strip, if there is one: the sum over the channels of a group
    if (U >= 0) and (U < K):
        total = tl.sum(value * grad, AXIS, keep_dims=True)
        tl.store(result + _at(U * K + v, result_n) + T * result_y, total, live & (row + T < height))


@triton.jit
def _correlate(part, value, grad, at, U: tl.constexpr, K: tl.constexpr, AXIS: tl.constexpr):
    if (U >= 0) and (U < K):
        part += tl.sum(value * grad, AXIS, keep_dims=True)
    return part
