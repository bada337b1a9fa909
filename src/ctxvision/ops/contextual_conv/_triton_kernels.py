"""The Triton kernels of contextual convolution; `triton.py` launches them. See the section GPU of README.md.

A program computes a tile of P positions of one image by C channels. Inside a kernel everything has two axes;
`by_position` and `by_channel` say which is which. Depthwise kernels are applied while sampling; dense ones are a
matrix product with columns, the samples of a bounded number of images. Channel counts are in ``UNIT`` channels, so
that the compiler knows how far it may vectorise.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc,import-untyped"

import triton
import triton.language as tl

from ctxvision.ops._triton_axes import by_channel, by_position, far

# ints that are never specialised: one kernel serves all batch sizes, resolutions and strides
RUNTIME = [
    "first", "images", "height", "width", "out_height", "out_width", "channels", "group_channels",
    "stride_y", "stride_x", "padding_y", "padding_x", "dilation_y", "dilation_x", "per_image",
    "sampling_offset_b", "sampling_offset_n", "sampling_offset_y", "sampling_offset_x",
    "mask_b", "mask_n", "mask_y", "mask_x",
]  # fmt: skip


@triton.jit
def _pixel(image, index, c, count, channels, CHANNELS_LAST: tl.constexpr):
    # address in a dense (B, C, count) or (B, count, C)
    if CHANNELS_LAST:
        address = far(far(image, count) + index, channels) + c
    else:
        address = far(far(image, channels) + c, count) + index
    return address


@triton.jit
def _column(local, p, n, c, images, count, group_channels, K: tl.constexpr):
    # address in columns (G, images, count, K, C / G)
    group = far(far(c // group_channels, images) + local, count) + p
    return far(group * K + n, group_channels) + c % group_channels


@triton.jit
def _kernels_at(kernel, image, n, c, channels, per_image, K: tl.constexpr):
    # address in the kernels (B or 1, K, C)
    return kernel + (far(far(image, per_image) * K + n, channels) + c)


@triton.jit
def _sample(sampling_offset, mask, n, row, column, live, height, width,
            stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, sampling_offset_n, mask_n,
            KW: tl.constexpr, HAS_MASK: tl.constexpr, CHANNELS_LAST: tl.constexpr):  # fmt: skip
    # upper row and left column of the pixels around a sample, the fractions, the modulation, whether it is one;
    # loaded along one axis, so that a thread loads none twice
    y = (row * stride_y - padding_y + n // KW * dilation_y).to(tl.float32)
    x = (column * stride_x - padding_x + n % KW * dilation_x).to(tl.float32)
    y += tl.load(sampling_offset + far(2 * n, sampling_offset_n), live, other=0).to(tl.float32)
    x += tl.load(sampling_offset + far(2 * n + 1, sampling_offset_n), live, other=0).to(tl.float32)
    # two pixels outside is as far as any distance; comparisons keep NaN
    y = tl.where(y < -2, -2.0, tl.where(y > height + 1, height + 1.0, y))
    x = tl.where(x < -2, -2.0, tl.where(x > width + 1, width + 1.0, x))
    top, left = tl.floor(y), tl.floor(x)
    modulation = tl.zeros_like(y) + 1
    if HAS_MASK:
        modulation = tl.load(mask + far(n, mask_n), live, other=0).to(tl.float32)
    return (
        by_position(top, CHANNELS_LAST), by_position(left, CHANNELS_LAST),
        by_position(y - top, CHANNELS_LAST), by_position(x - left, CHANNELS_LAST),
        by_position(modulation, CHANNELS_LAST), by_position(live, CHANNELS_LAST),
    )  # fmt: skip


@triton.jit
def _corner(top, left, live, height, width, step, DOWN: tl.constexpr, RIGHT: tl.constexpr):
    # distance of a pixel from the image's first one, and whether it is inside; false for NaN
    row, column = top + DOWN, left + RIGHT
    inside = live & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    row, column = tl.where(inside, row, 0).to(tl.int32), tl.where(inside, column, 0).to(tl.int32)
    return (far(row, width) + column) * step, inside


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
    x, kernel, sampling_offset, mask, bias, result,
    first, images, height, width, out_height, out_width, channels, group_channels, per_image,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    sampling_offset_b: tl.int64, sampling_offset_n: tl.int64,
    sampling_offset_y: tl.int64, sampling_offset_x: tl.int64,
    mask_b: tl.int64, mask_n: tl.int64, mask_y: tl.int64, mask_x: tl.int64,
    K: tl.constexpr, KW: tl.constexpr, DEPTHWISE: tl.constexpr, HAS_MASK: tl.constexpr, HAS_BIAS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, UNIT: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    channels, group_channels = channels * UNIT, group_channels * UNIT
    count, tiles_c = out_height * out_width, tl.cdiv(channels, C)
    program = tl.program_id(0)
    c = by_channel(program % tiles_c * C + tl.arange(0, C), CHANNELS_LAST)
    p = program // tiles_c % tl.cdiv(count, P) * P + tl.arange(0, P)
    local = program // (tiles_c * tl.cdiv(count, P))
    image = local + first
    row, column, inside, seen = p // out_width, p % out_width, p < count, c < channels

    x += _pixel(image, 0, c, height * width, channels, CHANNELS_LAST)
    step = channels if CHANNELS_LAST else 1
    sampling_offset += far(image, sampling_offset_b) + far(row, sampling_offset_y) + far(column, sampling_offset_x)
    mask += far(image, mask_b) + far(row, mask_y) + far(column, mask_x)
    p = by_position(p, CHANNELS_LAST)
    total = tl.zeros_like((p < count) & seen).to(tl.float32)
    for n in range(K):
        top, left, fy, fx, modulation, live = _sample(
            sampling_offset, mask, n, row, column, inside, height, width, stride_y, stride_x, padding_y, padding_x,
            dilation_y, dilation_x, sampling_offset_n, mask_n, KW, HAS_MASK, CHANNELS_LAST,
        )  # fmt: skip
        value = _interpolate(x, top, left, fy, fx, modulation, live, seen, height, width, step)
        if DEPTHWISE:
            total += value * tl.load(_kernels_at(kernel, image, n, c, channels, per_image, K), seen, other=0)
        else:
            at = _column(local, p, n, c, images, count, group_channels, K)
            tl.store(result + at, value, live & seen)
    if DEPTHWISE:
        if HAS_BIAS:
            total += tl.load(bias + far(c, 1), seen, other=0).to(tl.float32)
        tl.store(result + _pixel(image, p, c, count, channels, CHANNELS_LAST), total, (p < count) & seen)


@triton.jit
def _scatter(grad_x, value, coefficient, top, left, live, seen, height, width, step, DOWN: tl.constexpr,
             RIGHT: tl.constexpr):  # fmt: skip
    at, inside = _corner(top, left, live, height, width, step, DOWN, RIGHT)
    tl.atomic_add(grad_x + at, value * coefficient, inside & seen, sem="relaxed")


@triton.jit(do_not_specialize=RUNTIME)
def _position_kernel(
    grad, x, kernel, sampling_offset, mask, grad_x, grad_sampling_offset, grad_mask,
    first, images, height, width, out_height, out_width, channels, group_channels, per_image,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    sampling_offset_b: tl.int64, sampling_offset_n: tl.int64,
    sampling_offset_y: tl.int64, sampling_offset_x: tl.int64,
    mask_b: tl.int64, mask_n: tl.int64, mask_y: tl.int64, mask_x: tl.int64,
    K: tl.constexpr, KW: tl.constexpr, DEPTHWISE: tl.constexpr, HAS_MASK: tl.constexpr,
    NEEDS_X: tl.constexpr, NEEDS_SAMPLING_OFFSET: tl.constexpr, NEEDS_MASK: tl.constexpr,
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
    sampling_offset += far(image, sampling_offset_b) + far(row, sampling_offset_y) + far(column, sampling_offset_x)
    mask += far(image, mask_b) + far(row, mask_y) + far(column, mask_x)
    top, left, fy, fx, modulation, live = _sample(
        sampling_offset, mask, n, row, column, p < count, height, width, stride_y, stride_x, padding_y, padding_x,
        dilation_y, dilation_x, sampling_offset_n, mask_n, KW, HAS_MASK, CHANNELS_LAST,
    )  # fmt: skip
    p = by_position(p, CHANNELS_LAST)
    upper, lower = (1 - fy) * modulation, fy * modulation
    step = channels if CHANNELS_LAST else 1
    channel = by_channel(tl.arange(0, C), CHANNELS_LAST)
    sum00 = tl.zeros_like(live & (channel < C)).to(tl.float32)
    sum01, sum10, sum11 = sum00, sum00, sum00
    for start in range(0, channels, C):
        c = start + channel
        seen = c < channels
        if DEPTHWISE:
            value = tl.load(grad + _pixel(image, p, c, count, channels, CHANNELS_LAST), live & seen, other=0)
            value = value.to(tl.float32)
            value *= tl.load(_kernels_at(kernel, image, n, c, channels, per_image, K), seen, other=0)
        else:
            at = _column(local, p, n, c, images, count, group_channels, K)
            value = tl.load(grad + at, live & seen, other=0).to(tl.float32)
        first_pixel = _pixel(image, 0, c, height * width, channels, CHANNELS_LAST)
        if NEEDS_SAMPLING_OFFSET or NEEDS_MASK:
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
    if NEEDS_SAMPLING_OFFSET or NEEDS_MASK:
        top_left, top_right = tl.sum(sum00, AXIS, keep_dims=True), tl.sum(sum01, AXIS, keep_dims=True)
        bottom_left, bottom_right = tl.sum(sum10, AXIS, keep_dims=True), tl.sum(sum11, AXIS, keep_dims=True)
        upper = top_left + fx * (top_right - top_left)
        lower = bottom_left + fx * (bottom_right - bottom_left)
        right = top_right - top_left
        right += fy * (bottom_right - bottom_left - right)
        tap = far(image, K) + n  # of (B, K)
        if NEEDS_MASK:
            tl.store(grad_mask + (far(tap, count) + p), upper + fy * (lower - upper), live)
        if NEEDS_SAMPLING_OFFSET:
            tl.store(grad_sampling_offset + (far(2 * tap, count) + p), (lower - upper) * modulation, live)
            tl.store(grad_sampling_offset + (far(2 * tap + 1, count) + p), right * modulation, live)


@triton.jit(do_not_specialize=RUNTIME)
def _kernel_kernel(
    grad, x, sampling_offset, mask, result,
    first, images, height, width, out_height, out_width, channels, group_channels, per_image,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    sampling_offset_b: tl.int64, sampling_offset_n: tl.int64,
    sampling_offset_y: tl.int64, sampling_offset_x: tl.int64,
    mask_b: tl.int64, mask_n: tl.int64, mask_y: tl.int64, mask_x: tl.int64,
    K: tl.constexpr, KW: tl.constexpr, HAS_MASK: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, UNIT: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    # depthwise: one tap of one image, a tile of channels, all positions
    channels, count = channels * UNIT, out_height * out_width
    program = tl.program_id(0)
    channel = program % tl.cdiv(channels, C) * C + tl.arange(0, C)
    c = by_channel(channel, CHANNELS_LAST)
    n, image = program // tl.cdiv(channels, C) % K, program // tl.cdiv(channels, C) // K
    seen = c < channels
    x += _pixel(image, 0, c, height * width, channels, CHANNELS_LAST)
    step = channels if CHANNELS_LAST else 1
    total = tl.zeros_like(seen & (by_position(tl.arange(0, P), CHANNELS_LAST) < P)).to(tl.float32)
    for start in range(0, count, P):
        p = start + tl.arange(0, P)
        row, column = p // out_width, p % out_width
        top, left, fy, fx, modulation, live = _sample(
            sampling_offset
            + (far(image, sampling_offset_b) + far(row, sampling_offset_y) + far(column, sampling_offset_x)),
            mask + (far(image, mask_b) + far(row, mask_y) + far(column, mask_x)),
            n, row, column, p < count, height, width, stride_y, stride_x, padding_y, padding_x,
            dilation_y, dilation_x, sampling_offset_n, mask_n, KW, HAS_MASK, CHANNELS_LAST,
        )  # fmt: skip
        value = _interpolate(x, top, left, fy, fx, modulation, live, seen, height, width, step)
        at = _pixel(image, by_position(p, CHANNELS_LAST), c, count, channels, CHANNELS_LAST)
        total += value * tl.load(grad + at, live & seen, other=0).to(tl.float32)
    total = tl.sum(total, 0 if CHANNELS_LAST else 1)
    tl.store(result + (far(far(image, K) + n, channels) + channel), total, channel < channels)
