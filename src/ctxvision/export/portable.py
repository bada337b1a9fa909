"""Operators in a few standard ones each, that every runtime knows: gather, multiply, sum, grid sample.

Slower and larger in memory than the kernels; they exist to be exported. Layouts: x (B, C, H, W), maps
(B, G, K, H', W'), y (B, C, H', W').
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def local_aggregation(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    interleaved: bool,
) -> Tensor:
    """Return what `ctxvision.ops.local_aggregation` returns, (B, C, H', W').

    The arguments are those of that function, with ``x`` (B, C, H, W) and ``weight`` (B, G, k*k, H', W'); they have
    been checked.
    """
    channels, (groups, taps, rows, columns) = x.shape[1], weight.shape[1:]
    kernel = math.isqrt(taps)
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    for axis, count in ((2, rows), (3, columns)):
        first = torch.arange(kernel, device=x.device)[:, None] * dilation[axis - 2]
        position = first + torch.arange(count, device=x.device) * stride[axis - 2]
        padded = padded.index_select(axis, position.flatten())
    per_group = channels // groups
    split = (per_group, groups) if interleaved else (groups, per_group)
    neighbours = padded.reshape(-1, *split, kernel, rows, kernel, columns)
    maps = weight.reshape(-1, groups, kernel, kernel, rows, columns).transpose(3, 4)  # (B, G, k, H', k, W')
    products = neighbours * maps.unsqueeze(1 if interleaved else 2)
    return products.sum((3, 5)).reshape(-1, channels, rows, columns)


def contextual_conv2d(
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
    """Return what `ctxvision.ops.contextual_conv2d` returns, (B, O, H', W').

    The arguments are those of that function, with ``x`` (B, C, H, W) and ``weight`` (O, C / groups, k_h, k_w);
    they have been checked.

    The samples of one row of the kernel at a time are held: k_w times the input.
    """
    (channels, height, width), (rows, columns) = x.shape[1:], offset.shape[2:]
    kernel_rows, kernel_columns = weight.shape[2:]
    offsets = offset.reshape(-1, kernel_rows, kernel_columns, 2, rows, columns)
    y0 = (_count(rows, x) * stride[0] - padding[0])[:, None]
    x0 = _count(columns, x) * stride[1] - padding[1]
    tap_x = (_count(kernel_columns, x) * dilation[1])[:, None, None]
    total = x.new_zeros(())
    for u in range(kernel_rows):
        # pixel i has its centre at (2 i + 1) / size - 1; two pixels outside is as far as any distance
        at_y = (offsets[:, u, :, 0] + y0 + u * dilation[0]).clamp(-2, height + 1)
        at_x = (offsets[:, u, :, 1] + x0 + tap_x).clamp(-2, width + 1)
        grid = torch.stack([(2 * at_x + 1) / width - 1, (2 * at_y + 1) / height - 1], -1)
        sampled = F.grid_sample(x, grid.flatten(1, 2), "bilinear", "zeros", align_corners=False)
        sampled = sampled.reshape(-1, channels, kernel_columns, rows, columns)
        if mask is not None:
            sampled = sampled * mask.reshape(-1, 1, kernel_rows, kernel_columns, rows, columns)[:, :, u]
        bend = None if weight_offset is None else weight_offset[:, :, u]
        total = total + _contract(sampled, weight[:, :, u], bend, groups)
    if bias is not None:
        total = total + bias[:, None, None]
    return total


def adaptive_avg_pool2d(x: Tensor, output_size: int | Sequence[int]) -> Tensor:
    """Return what torch's ``adaptive_avg_pool2d`` returns, as two matrix products.

    ``x`` is (B, C, H, W), of any size; the result is (B, C, H', W') with (H', W') = ``output_size``.
    """
    output_size = (output_size, output_size) if isinstance(output_size, int) else output_size
    if tuple(output_size) == (1, 1):
        return x.mean((2, 3), keepdim=True)
    for axis, cells in ((2, output_size[0]), (3, output_size[1])):
        size = x.shape[axis]
        cell, place = torch.arange(cells, device=x.device)[:, None], torch.arange(size, device=x.device)
        # cell i averages from floor(i size / cells) to ceil((i + 1) size / cells)
        inside = (place >= cell * size // cells) & (place < ((cell + 1) * size + cells - 1) // cells)
        weight = inside.to(x.dtype) / inside.sum(1, keepdim=True)
        x = weight @ x if axis == 2 else x @ weight.T
    return x


def _contract(sampled: Tensor, weight: Tensor, bend: Tensor | None, groups: int) -> Tensor:
    """Apply one row of the kernel: sampled (B, C, k, H', W'), weight (O, C / groups, k), bend (B, C, k)."""
    channels, kernel, rows, columns = sampled.shape[1:]
    if weight.shape[1] == 1 and weight.shape[0] == groups:
        own = weight[:, 0] if bend is None else weight[:, 0] + bend
        return (sampled * own[..., None, None]).sum(2)
    per_group, made = channels // groups, weight.shape[0] // groups
    columns_of = sampled.reshape(-1, groups, per_group * kernel, rows * columns)
    y = weight.reshape(groups, made, per_group * kernel) @ columns_of  # (B, groups, made, P)
    if bend is not None:
        y = y + bend.reshape(-1, groups, 1, per_group * kernel) @ columns_of
    return y.reshape(-1, groups * made, rows, columns)


def _count(numbers: int, like: Tensor) -> Tensor:
    """Return 0, 1, … in the data type and on the device of a tensor, (numbers,)."""
    return torch.arange(numbers, dtype=like.dtype, device=like.device)
