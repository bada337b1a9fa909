"""Local aggregation in standard operators, for exported graphs: see the README's table for which form is chosen.

Layouts: x (B, C, H, W), maps (B, G, K, H', W'), y (B, C, H', W').
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ctxvision.ops._exporting import sizes_as_numbers

from .checks import kernel_side

# A banded matrix multiplies every pixel of a row with every output of it. Where rows are at most so many times as
# wide as a kernel that is not small, ONNX Runtime and OpenVINO do that faster than k² products and sums.
_WIDEST = 3
SMALL = 3


def aggregate(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    interleaved: bool,
) -> Tensor:
    """Return what the operator returns, (B, C, H', W'), for arguments that have been checked."""
    with sizes_as_numbers():
        channels, (groups, taps) = int(x.shape[1]), (int(n) for n in weight.shape[1:3])
    kernel, columns = kernel_side(taps), weight.shape[4]
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0])) if any(padding) else x
    shared = channels // groups
    split = (shared, groups) if interleaved else (groups, shared)
    padded = padded.reshape(-1, *split, *padded.shape[2:])
    if isinstance(columns, int) and is_banded(columns, kernel, stride[1], dilation[1]):
        sums = _banded(padded, weight, kernel, stride, dilation, interleaved)
    else:
        maps = weight.unsqueeze(1 if interleaved else 2).unbind(3)
        sums = sum_of_shifts(padded, maps, (kernel, kernel), stride, dilation)
    return sums.flatten(1, 2)


def is_banded(columns: int, kernel: int, stride: int, dilation: int) -> bool:
    """Whether rows of so many results are made by matrix products, instead of a sum of shifts."""
    width = stride * (columns - 1) + dilation * (kernel - 1) + 1
    return kernel > SMALL and width <= _WIDEST * kernel


def sum_of_shifts(
    padded: Tensor, maps: Sequence[Tensor], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """Return the sum over the taps of what each reads, times its map.

    Args:
        padded: Padded images, (..., H + 2 p, W + 2 p).
        maps: One map per tap, row by row over the kernel, each of a shape that fits (..., H', W').
        kernel: Height and width of the kernel.
        stride: Steps between output positions.
        dilation: Distances between taps.
    """
    total: Tensor | None = None
    for v in range(kernel[1]):
        shifted = padded[
            ..., :, _reads(v, kernel[1], stride[1], dilation[1])
        ]  # rows of it lie one behind the other
        column: Tensor | None = None
        for u in range(kernel[0]):
            term = shifted[..., _reads(u, kernel[0], stride[0], dilation[0]), :] * maps[u * kernel[1] + v]
            column = term if column is None else column + term
        assert column is not None
        total = column if total is None else total + column
    assert total is not None  # a kernel has at least one tap
    return total


def _reads(tap: int, kernel: int, stride: int, dilation: int) -> slice:
    """Return what a tap reads of a padded axis: constants, whatever the size."""
    return slice(tap * dilation, (tap - kernel + 1) * dilation or None, stride)


def _banded(
    padded: Tensor, weight: Tensor, kernel: int, stride: Sequence[int], dilation: Sequence[int], interleaved: bool
) -> Tensor:
    """Return the sums, (B, C / G, G, H', W') or (B, G, C / G, H', W'), one matrix product for each row and group.

    The product of a matrix (W', k · w), whose row j holds the kernels of output j moved by j strides, with the k
    rows that an output row reads, (k · w, C / G).
    """
    columns = int(weight.shape[4])
    span = dilation[1] * (kernel - 1) + 1
    width = stride[1] * (columns - 1) + span
    # (B, G, H + 2 p, w, C / G)
    rows = padded[..., :width].permute((0, 2, 3, 4, 1) if interleaved else (0, 1, 3, 4, 2))
    read = [rows[:, :, _reads(u, kernel, stride[0], dilation[0])] for u in range(kernel)]
    images = read[0] if kernel == 1 else torch.cat(read, 3)
    taps = weight.unflatten(2, (kernel, kernel)).permute(0, 1, 4, 5, 2, 3)  # (B, G, H', W', k, k)
    if dilation[1] > 1:
        taps = F.pad(taps.unsqueeze(-1), (0, dilation[1] - 1)).flatten(-2)[..., :span]
    # in rows that are a stride too long, row j + 1 begins a stride further right than row j
    band = F.pad(F.pad(taps, (0, width - span)).flatten(-2), (0, stride[1])).flatten(-2)
    band = band[..., : columns * kernel * width].unflatten(-1, (columns, kernel * width))
    sums: Tensor = (band @ images).permute((0, 4, 1, 2, 3) if interleaved else (0, 1, 4, 2, 3))
    return sums
