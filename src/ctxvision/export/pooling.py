"""torch's adaptive pooling in operators that every runtime knows."""

from collections.abc import Sequence

import torch
from torch import Tensor


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
