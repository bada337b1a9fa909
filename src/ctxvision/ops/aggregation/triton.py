"""Local aggregation and its two adjoints in Triton, without atomics. See the section GPU of README.md."""
# mypy: disable-error-code="import-untyped"

from collections.abc import Sequence
from math import gcd, isqrt
from typing import Any

import torch
import triton
from torch import Tensor

from ctxvision.ops._geometry import empty_like_layout, empty_maps

from ._triton_kernels import _correlate_kernel, _gather_kernel

ROWS = 4  # of a strip, where the taps of neighbouring rows coincide; else 1


def _strides(tensor: Tensor, unit: int = 1) -> list[int]:
    """Return the strides in units, that of the channels in elements; 0 where the size is 1."""
    steps = [0 if size == 1 else stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    return [step if n == 1 else step // unit for n, step in enumerate(steps)]


def _layout(groups: int, shared: int, interleaved: bool, *tensors: Tensor) -> tuple[bool, int]:
    """Return whether channels are contiguous in all tensors, and a power of two that divides every other step."""
    channels_last = all(tensor.stride(1) == 1 for tensor in tensors) and groups * shared > 1
    unit = 16 // tensors[0].element_size()  # the widest access
    if not channels_last:
        return False, 1
    for tensor in tensors:
        unit = gcd(unit, *(stride for n, stride in enumerate(_strides(tensor)) if n != 1))
    return True, gcd(unit, groups if interleaved else shared)


def _blocks(groups: int, shared: int, interleaved: bool, channels_last: bool, itemsize: int) -> dict[str, int]:
    """Return strips, groups, shares and warps of a program: its tile. It knows channels and dtype, no sizes."""
    groups, shared = triton.next_power_of_2(groups), triton.next_power_of_2(shared)
    if not channels_last:  # neighbouring threads take neighbouring columns
        return {"P": max(64, 512 // shared), "G": 1, "S": min(shared, 8), "num_warps": 4}
    share = min(shared, 8 if interleaved else 16)
    group = min(groups, 32 if interleaved else max(1, 64 // share))
    return {"P": max(1, 2048 // itemsize // (group * share)), "G": group, "S": share, "num_warps": 4}


def _geometry(
    shape: Sequence[int], source: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> dict[str, int]:
    """Return the runtime integers that describe where taps read, for results of ``shape`` (..., height, width)."""
    return {
        "height": shape[-2], "width": shape[-1], "source_height": source.shape[2], "source_width": source.shape[3],
        "stride_y": stride[0], "stride_x": stride[1], "padding_y": padding[0], "padding_x": padding[1],
        "dilation_y": dilation[0], "dilation_x": dilation[1],
    }  # fmt: skip


def _named(name: str, axes: str, strides: Sequence[int]) -> dict[str, int]:
    return {f"{name}_{axis}": step for axis, step in zip(axes, strides, strict=True)}


def _gather(
    source: Tensor, weight: Tensor, result: Tensor, *geometry: Any, interleaved: bool, adjoint: bool
) -> Tensor:
    """Fill ``result`` (B, C, h, w) with what `aggregate` or, as ``adjoint``, its input gradient reads."""
    if result.numel() == 0:
        return result
    (batch, channels, height, width), (groups, taps) = result.shape, weight.shape[1:3]
    stride, _, dilation = geometry
    shared, kernel = channels // groups, isqrt(taps)
    channels_last, unit = _layout(groups, shared, interleaved, source, result)
    blocks = _blocks(groups, shared, interleaved, channels_last, source.element_size())
    strip = ROWS if kernel > 1 and stride[0] == dilation[0] == 1 else 1
    strips = batch * triton.cdiv(height, strip) * width
    grid = triton.cdiv(strips, blocks["P"]) * triton.cdiv(groups, blocks["G"]) * triton.cdiv(shared, blocks["S"])
    with torch.cuda.device_of(source):
        _gather_kernel[(grid,)](
            source, weight, result,
            batch=batch, **_geometry(result.shape, source, *geometry),
            groups=groups // unit if interleaved else groups, shared=shared if interleaved else shared // unit,
            **_named("source", "bcyx", _strides(source, unit)),
            **_named("weight", "bgnyx", weight.stride()),
            **_named("result", "bcyx", _strides(result, unit)),
            K=kernel, ADJOINT=adjoint, INTERLEAVED=interleaved, CHANNELS_LAST=channels_last, UNIT=unit,
            STRIP=strip, **blocks,
        )  # fmt: skip
    return result


def aggregate(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    interleaved: bool,
) -> Tensor:
    """Return ``y[c] = sum_n a[g(c), n] * shift_n(x[c])``, (B, C, H', W')."""
    result = empty_like_layout(x, (*x.shape[:2], *weight.shape[3:]))
    return _gather(x, weight, result, stride, padding, dilation, interleaved=interleaved, adjoint=False)


def input_grad(
    grad: Tensor,
    weight: Tensor,
    input_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    interleaved: bool,
) -> Tensor:
    """Return the adjoint of `aggregate` in x, (B, C, H, W): every pixel asks which positions read it."""
    result = empty_like_layout(grad, (*grad.shape[:2], *input_size))
    return _gather(grad, weight, result, stride, padding, dilation, interleaved=interleaved, adjoint=True)


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
    result = empty_maps(grad, groups, taps)
    if result.numel() == 0:
        return result
    shared, kernel, batch, (height, width) = grad.shape[1] // groups, isqrt(taps), grad.shape[0], grad.shape[2:]
    channels_last, unit = _layout(groups, shared, interleaved, x, grad)
    blocks = _blocks(groups, shared, interleaved, channels_last, x.element_size())
    strip = ROWS if kernel > 1 and stride[0] == dilation[0] == 1 else 1
    grid = triton.cdiv(batch * triton.cdiv(height, strip) * width, blocks["P"]) * triton.cdiv(groups, blocks["G"])
    with torch.cuda.device_of(x):
        _correlate_kernel[(grid,)](
            x, grad, result,
            batch=batch, **_geometry(grad.shape, x, stride, padding, dilation),
            groups=groups // unit if interleaved else groups, shared=shared if interleaved else shared // unit,
            **_named("source", "bcyx", _strides(x, unit)),
            **_named("grad", "bcyx", _strides(grad, unit)),
            **_named("result", "bgnyx", result.stride()),
            K=kernel, INTERLEAVED=interleaved, CHANNELS_LAST=channels_last, UNIT=unit,
            WHOLE=shared <= blocks["S"], STRIP=strip, **blocks,
        )  # fmt: skip
    return result
