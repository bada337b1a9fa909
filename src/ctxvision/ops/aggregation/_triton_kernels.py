"""The Triton kernels of local aggregation; `triton.py` launches them. See the section GPU of README.md.

A program computes a tile of P strips (``STRIP`` rows of one column of an image) by G groups by S of the channels
that share a map. Maps have the first two axes, values all three; `by_position`, `by_channel` and `_by_share` say
in which order. Strides of channels-last tensors count ``UNIT`` elements, so that the compiler knows how far it may
vectorise.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc,import-untyped"

import triton
import triton.language as tl

from ctxvision.ops._triton_axes import by_channel, by_position, far

# ints that are never specialised: one kernel serves all batch sizes, resolutions and strides
RUNTIME = [
    "batch", "height", "width", "source_height", "source_width", "groups", "shared",
    "stride_y", "stride_x", "padding_y", "padding_x", "dilation_y", "dilation_x",
    "source_b", "source_c", "source_y", "source_x", "grad_b", "grad_c", "grad_y", "grad_x",
    "weight_b", "weight_g", "weight_n", "weight_y", "weight_x",
    "result_b", "result_c", "result_g", "result_n", "result_y", "result_x",
]  # fmt: skip


@triton.jit
def _by_share(s, LAST: tl.constexpr):
    return s[None, None, :] if LAST else s[None, :, None]


@triton.jit
def _spread(tile, LAST: tl.constexpr):
    # over the channels of a group; maps are loaded before, so that a thread loads none twice
    return tile[:, :, None] if LAST else tile[:, None, :]


@triton.jit
def _strips(program, batch, height, width, STRIP: tl.constexpr, P: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    # image, first row and column of each strip, and whether there is such a strip
    p = by_position(tl.cast(program, tl.int64) * P + tl.arange(0, P), CHANNELS_LAST)
    strips = tl.cdiv(height, STRIP) * width
    image, p = p // strips, (p % strips).to(tl.int32)
    return image, p // width * STRIP, p % width, image < batch


@triton.jit
def _channels(index, step, stride, CHANNELS_LAST: tl.constexpr):
    # offset of every step-th channel
    offset = far(index, step)
    return offset if CHANNELS_LAST else offset * stride


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
def _add(total, value, maps, seen, row, height, v, weight_n, weight_y, T: tl.constexpr, E: tl.constexpr,
         K: tl.constexpr, ADJOINT: tl.constexpr, LAST: tl.constexpr):  # fmt: skip
    # row T of the strip gets what the E-th row holds through tap (U, v), if that is one
    U: tl.constexpr = K - 1 - E + T if ADJOINT else E - T
    if (U >= 0) and (U < K):
        maps += far(U * K + v, weight_n)
        if not ADJOINT:
            maps += T * weight_y
            seen = seen & (row + T < height)
        total += value * _spread(tl.load(maps, seen, other=0).to(tl.float32), LAST)
    return total


@triton.jit(do_not_specialize=RUNTIME)
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
    LAST: tl.constexpr = CHANNELS_LAST and not INTERLEAVED  # the axis of the shares
    groups = groups * UNIT if INTERLEAVED else groups
    shared = shared if INTERLEAVED else shared * UNIT
    step_g, step_s = 1 if INTERLEAVED else shared, groups if INTERLEAVED else 1  # in channels
    tiles_g, tiles_s = tl.cdiv(groups, G), tl.cdiv(shared, S)
    program = tl.program_id(0)
    g = by_channel(program // tiles_s % tiles_g * G + tl.arange(0, G), CHANNELS_LAST)
    s = _by_share(program % tiles_s * S + tl.arange(0, S), LAST)
    program = program // (tiles_s * tiles_g)
    image, row, column, live = _strips(program, batch, height, width, STRIP, P, CHANNELS_LAST)
    live = live & (g < groups)
    shares = s < shared

    source += far(image, source_b) * UNIT + _channels(g, step_g, source_c, CHANNELS_LAST)
    of_share = _channels(s, step_s, source_c, CHANNELS_LAST)
    maps = weight + far(image, weight_b) + far(g, weight_g)
    if not ADJOINT:
        maps += far(row, weight_y) + far(column, weight_x)
    total0 = tl.zeros_like(_spread(live, LAST) & shares).to(tl.float32)
    total1, total2, total3 = total0, total0, total0
    for v in range(K):
        x, inside_x = _tap(column, v, stride_x, padding_x, dilation_x, source_width, ADJOINT)
        for e in tl.static_range(K + STRIP - 1):
            y, inside = _tap(
                row, K - 1 - e if ADJOINT else e, stride_y, padding_y, dilation_y, source_height, ADJOINT
            )
            inside = inside & inside_x & live
            pixel = source + (far(y, source_y) + far(x, source_x)) * UNIT
            value = tl.load(_spread(pixel, LAST) + of_share, _spread(inside, LAST) & shares, other=0).to(
                tl.float32
            )
            at, seen = maps, live
            if ADJOINT:  # the maps are those of the position that is read
                at, seen = maps + (far(y, weight_y) + far(x, weight_x)), inside
            total0 = _add(total0, value, at, seen, row, height, v, weight_n, weight_y, 0, e, K, ADJOINT, LAST)
            if STRIP == 4:
                total1 = _add(total1, value, at, seen, row, height, v, weight_n, weight_y, 1, e, K, ADJOINT, LAST)
                total2 = _add(total2, value, at, seen, row, height, v, weight_n, weight_y, 2, e, K, ADJOINT, LAST)
                total3 = _add(total3, value, at, seen, row, height, v, weight_n, weight_y, 3, e, K, ADJOINT, LAST)

    result += (far(image, result_b) + far(row, result_y) + far(column, result_x)) * UNIT
    pixel = _spread(result + _channels(g, step_g, result_c, CHANNELS_LAST), LAST)
    pixel += _channels(s, step_s, result_c, CHANNELS_LAST)
    tl.store(pixel, total0, _spread(live, LAST) & shares)
    if STRIP == 4:
        tl.store(pixel + result_y * UNIT, total1, _spread(live & (row + 1 < height), LAST) & shares)
        tl.store(pixel + 2 * result_y * UNIT, total2, _spread(live & (row + 2 < height), LAST) & shares)
        tl.store(pixel + 3 * result_y * UNIT, total3, _spread(live & (row + 3 < height), LAST) & shares)


@triton.jit
def _read_row(grad, shares, row, height, live, grad_y, T: tl.constexpr, LAST: tl.constexpr):
    inside = _spread(live & (row + T < height), LAST) & shares
    return tl.load(grad + T * grad_y, inside, other=0).to(tl.float32)


@triton.jit
def _correlate(part, value, grad, T: tl.constexpr, E: tl.constexpr, K: tl.constexpr, LAST: tl.constexpr):
    # row T of the strip reads row E of the source through tap row E - T, if there is one
    if (E >= T) and (E - T < K):
        part += tl.sum(value * grad, 2 if LAST else 1)
    return part


@triton.jit
def _write(result, part, live, row, height, v, result_n, result_y, T: tl.constexpr, E: tl.constexpr,
           K: tl.constexpr):  # fmt: skip
    if (E >= T) and (E - T < K):
        tl.store(result + far((E - T) * K + v, result_n) + T * result_y, part, live & (row + T < height))


@triton.jit(do_not_specialize=RUNTIME)
def _correlate_kernel(
    source, grad, result,
    batch, height, width, source_height, source_width, groups, shared,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    source_b: tl.int64, source_c: tl.int64, source_y: tl.int64, source_x: tl.int64,
    grad_b: tl.int64, grad_c: tl.int64, grad_y: tl.int64, grad_x: tl.int64,
    result_b: tl.int64, result_g: tl.int64, result_n: tl.int64, result_y: tl.int64, result_x: tl.int64,
    K: tl.constexpr, INTERLEAVED: tl.constexpr, CHANNELS_LAST: tl.constexpr, UNIT: tl.constexpr,
    WHOLE: tl.constexpr, STRIP: tl.constexpr, P: tl.constexpr, G: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    LAST: tl.constexpr = CHANNELS_LAST and not INTERLEAVED  # the axis of the shares
    groups = groups * UNIT if INTERLEAVED else groups
    shared = shared if INTERLEAVED else shared * UNIT
    step_g, step_s = 1 if INTERLEAVED else shared, groups if INTERLEAVED else 1  # in channels
    tiles_g = tl.cdiv(groups, G)
    program = tl.program_id(0)
    g = by_channel(program % tiles_g * G + tl.arange(0, G), CHANNELS_LAST)
    s = _by_share(tl.arange(0, S), LAST)
    image, row, column, live = _strips(program // tiles_g, batch, height, width, STRIP, P, CHANNELS_LAST)
    live = live & (g < groups)

    source += far(image, source_b) * UNIT + _channels(g, step_g, source_c, CHANNELS_LAST)
    grad += (far(image, grad_b) + far(row, grad_y) + far(column, grad_x)) * UNIT
    grad = _spread(grad + _channels(g, step_g, grad_c, CHANNELS_LAST), LAST)
    result += far(image, result_b) + far(g, result_g) + far(row, result_y) + far(column, result_x)
    grad_y *= UNIT
    of_share, shares = _channels(s, step_s, source_c, CHANNELS_LAST), s < shared
    if WHOLE:  # one tile holds all channels of a group: the gradient is read once
        grad += _channels(s, step_s, grad_c, CHANNELS_LAST)
        grad0 = _read_row(grad, shares, row, height, live, grad_y, 0, LAST)
        if STRIP == 4:
            grad1 = _read_row(grad, shares, row, height, live, grad_y, 1, LAST)
            grad2 = _read_row(grad, shares, row, height, live, grad_y, 2, LAST)
            grad3 = _read_row(grad, shares, row, height, live, grad_y, 3, LAST)
    for v in range(K):
        x, inside_x = _tap(column, v, stride_x, padding_x, dilation_x, source_width, False)
        for e in tl.static_range(K + STRIP - 1):
            y, inside = _tap(row, e, stride_y, padding_y, dilation_y, source_height, False)
            inside = _spread(inside & inside_x & live, LAST)
            pixel = _spread(source + (far(y, source_y) + far(x, source_x)) * UNIT, LAST)
            part0 = tl.zeros_like(live).to(tl.float32)
            part1, part2, part3 = part0, part0, part0
            if WHOLE:
                value = tl.load(pixel + of_share, inside & shares, other=0).to(tl.float32)
                part0 = _correlate(part0, value, grad0, 0, e, K, LAST)
                if STRIP == 4:
                    part1 = _correlate(part1, value, grad1, 1, e, K, LAST)
                    part2 = _correlate(part2, value, grad2, 2, e, K, LAST)
                    part3 = _correlate(part3, value, grad3, 3, e, K, LAST)
            else:
                for first in range(0, shared, S):
                    shares = first + s < shared
                    at = pixel + _channels(first + s, step_s, source_c, CHANNELS_LAST)
                    value = tl.load(at, inside & shares, other=0).to(tl.float32)
                    at = grad + _channels(first + s, step_s, grad_c, CHANNELS_LAST)
                    grad0 = _read_row(at, shares, row, height, live, grad_y, 0, LAST)
                    part0 = _correlate(part0, value, grad0, 0, e, K, LAST)
                    if STRIP == 4:
                        grad1 = _read_row(at, shares, row, height, live, grad_y, 1, LAST)
                        grad2 = _read_row(at, shares, row, height, live, grad_y, 2, LAST)
                        grad3 = _read_row(at, shares, row, height, live, grad_y, 3, LAST)
                        part1 = _correlate(part1, value, grad1, 1, e, K, LAST)
                        part2 = _correlate(part2, value, grad2, 2, e, K, LAST)
                        part3 = _correlate(part3, value, grad3, 3, e, K, LAST)
            _write(result, part0, live, row, height, v, result_n, result_y, 0, e, K)
            if STRIP == 4:
                _write(result, part1, live, row, height, v, result_n, result_y, 1, e, K)
                _write(result, part2, live, row, height, v, result_n, result_y, 2, e, K)
                _write(result, part3, live, row, height, v, result_n, result_y, 3, e, K)
