"""Local aggregation and its two adjoints with the compiled CPU kernels: float32 and bfloat16.

The kernels take images channels-last or contiguous, and maps with the taps last (what a channels-last convolution
generates) or the positions last (contiguous); anything else is copied into one of them first.
"""

from collections.abc import Sequence

from torch import Tensor

from ctxvision.ops import _native
from ctxvision.ops._geometry import empty_like_layout, empty_maps, is_channels_last, like_layout

from . import reference

MODES = {"forward": 0, "input_grad": 1, "weight_grad": 2}  # Mode in local_aggregation.cpp


def aggregate(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    interleaved: bool,
) -> Tensor:
    """Return ``y[c] = sum_n a[g(c), n] * shift_n(x[c])``, (B, C, H', W')."""
    if x.numel() == 0:  # nothing but zeros outside
        return reference.aggregate(x, weight, stride, padding, dilation, interleaved)
    y = empty_like_layout(x, (*x.shape[:2], *weight.shape[3:]))
    maps, taps_last = _dense_maps(weight)
    sizes = (*weight.shape[1:2], *x.shape[2:], *y.shape[2:], weight.shape[2])
    _run("forward", (like_layout(x, y), maps, y), y, taps_last, sizes, (*stride, *padding, *dilation), interleaved)
    return y


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
    grad_x = empty_like_layout(grad, (*grad.shape[:2], *input_size))
    maps, taps_last = _dense_maps(weight)
    sizes = (weight.shape[1], *input_size, *grad.shape[2:], weight.shape[2])
    tensors = (like_layout(grad, grad_x), maps, grad_x)
    _run("input_grad", tensors, grad_x, taps_last, sizes, (*stride, *padding, *dilation), interleaved)
    return grad_x


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
    if x.numel() == 0:
        return reference.weight_grad(x, grad, groups, taps, stride, padding, dilation, interleaved)
    grad_weight = empty_maps(grad, groups, taps)
    sizes = (groups, *x.shape[2:], *grad.shape[2:], taps)
    tensors = (like_layout(x, grad), like_layout(grad, grad), grad_weight)
    _run(
        "weight_grad", tensors, grad, is_channels_last(grad), sizes, (*stride, *padding, *dilation), interleaved
    )  # fmt: skip
    return grad_weight


def _run(
    mode: str,
    tensors: Sequence[Tensor],
    like: Tensor,
    taps_last: bool,
    sizes: Sequence[int],
    geometry: Sequence[int],
    interleaved: bool,
) -> None:
    """Fill the last tensor; ``like`` has the memory format of all images, sizes are (G, H, W, H', W', K)."""
    if tensors[2].numel() == 0:
        return
    batch, channels = like.shape[:2]
    pixels, positions = batch * channels * sizes[1] * sizes[2], batch * sizes[3] * sizes[4]
    results, maps = positions * channels, positions * sizes[0] * sizes[5]
    needed = {"forward": (pixels, maps, results), "input_grad": (results, maps, pixels)}
    if tuple(tensor.numel() for tensor in tensors) != needed.get(mode, (pixels, results, maps)):
        raise ValueError(f"local aggregation: {[tuple(t.shape) for t in tensors]} do not have the sizes {sizes}")
    kernel = round(sizes[5] ** 0.5)
    flags = (MODES[mode], _native.CODES[like.dtype], is_channels_last(like), taps_last, interleaved)
    library = _native.load()
    assert isinstance(library, _native.Library)  # `choose` has seen it
    library.call("ctxvision_local_aggregation", tensors, (*flags, batch, channels, *sizes[:5], kernel, *geometry))


def _dense_maps(weight: Tensor) -> tuple[Tensor, bool]:
    """Return the maps in one of the two orders that the kernel reads, and whether the taps are last."""
    if weight.is_contiguous():
        return weight, False
    by_position = weight.permute(0, 3, 4, 1, 2)
    return (by_position, True) if by_position.is_contiguous() else (weight.contiguous(), False)
