"""Local aggregation and its two adjoints as sums of shifted products: any device, any floating dtype.

No neighbourhood is ever unfolded: each of the ``k * k`` taps is one strided view of the padded input.
Layouts: x (B, C, H, W), a (B, G, K, H', W'), y (B, C, H', W').
"""

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor

from ctxvision.ops._geometry import accumulation_dtype, empty_like_layout, empty_maps, is_channels_last


def _split(x: Tensor, groups: int, interleaved: bool) -> Tensor:
    """View (B, C, h, w) so that the group is an axis of its own: dimension 2 if interleaved, else 1."""
    split: Tensor = x.unflatten(1, (-1, groups) if interleaved else (groups, -1))
    return split


def _taps(
    kernel: int, size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Iterator[tuple[slice, slice]]:
    """Yield, tap by tap, the window of the padded image that the tap reads for all output positions."""
    (rows, columns), (sy, sx), (dy, dx) = size, stride, dilation
    for u in range(kernel):
        for v in range(kernel):
            yield (
                slice(u * dy, u * dy + sy * (rows - 1) + 1, sy),
                slice(v * dx, v * dx + sx * (columns - 1) + 1, sx),
            )


def _maps_by_tap(weight: Tensor, shared: int, like: Tensor) -> Tensor:
    """Return the weight as (K, B, G, 1, H', W') or (K, B, 1, G, H', W'), each map laid out as ``like`` is.

    The copy costs one pass over the weight; without it every tap strides over all others.
    """
    maps = weight.movedim(2, 0)
    if is_channels_last(like):
        maps = maps.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    return maps.unsqueeze(shared + 1)


def _pad(x: Tensor, padding: Sequence[int]) -> Tensor:
    return F.pad(x, (padding[1], padding[1], padding[0], padding[0])) if any(padding) else x


def aggregate(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    interleaved: bool,
) -> Tensor:
    """Return ``y[c] = sum_n a[g(c), n] * shift_n(x[c])``, (B, C, H', W')."""
    groups, taps, *size = weight.shape[1:]
    accumulate = accumulation_dtype(x.dtype)
    padded, weight = _pad(x, padding).to(accumulate), weight.to(accumulate)
    result = empty_like_layout(x, (*x.shape[:2], *size), accumulate).zero_()
    sums = _split(result, groups, interleaved)
    shared = 1 if interleaved else 2  # the axis over which channels share a map
    maps = _maps_by_tap(weight, shared, result)
    for n, (rows, columns) in enumerate(_taps(round(int(taps) ** 0.5), size, stride, dilation)):
        sums.addcmul_(_split(padded[:, :, rows, columns], groups, interleaved), maps[n])
    return result.to(x.dtype)


def input_grad(
    grad: Tensor,
    weight: Tensor,
    input_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    interleaved: bool,
) -> Tensor:
    """Return the adjoint of `aggregate` in x, (B, C, H, W): every product goes back to where it was read."""
    groups, taps, *size = weight.shape[1:]
    accumulate = accumulation_dtype(grad.dtype)
    padded_size = [n + 2 * p for n, p in zip(input_size, padding, strict=True)]
    padded = empty_like_layout(grad, (*grad.shape[:2], *padded_size), accumulate).zero_()
    split_grad = _split(grad.to(accumulate), groups, interleaved)
    maps = _maps_by_tap(weight.to(accumulate), 1 if interleaved else 2, padded)
    for n, (rows, columns) in enumerate(_taps(round(int(taps) ** 0.5), size, stride, dilation)):
        window = _split(padded[:, :, rows, columns], groups, interleaved)
        window.addcmul_(split_grad, maps[n])
    inner = padded[:, :, padding[0] : padding[0] + input_size[0], padding[1] : padding[1] + input_size[1]]
    return empty_like_layout(grad, inner.shape).copy_(inner)


def weight_grad(
    x: Tensor,
    grad: Tensor,
    groups: int,
    taps: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    interleaved: bool,
) -> Tensor:
    """Return the adjoint of `aggregate` in the weight, (B, G, K, H', W'): correlations summed over a group."""
    accumulate = accumulation_dtype(x.dtype)
    padded, split_grad = _pad(x, padding).to(accumulate), _split(grad.to(accumulate), groups, interleaved)
    result = empty_maps(grad, groups, taps)
    shared = 1 if interleaved else 2
    for n, (rows, columns) in enumerate(_taps(round(int(taps) ** 0.5), grad.shape[2:], stride, dilation)):
        products = _split(padded[:, :, rows, columns], groups, interleaved) * split_grad
        result[:, :, n] = products.sum(shared)
    return result
