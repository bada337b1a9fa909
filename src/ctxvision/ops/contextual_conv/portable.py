"""Contextual convolution in standard operators, for exported graphs: see the README for what was measured.

Layouts: x (B, C, H, W), sampling offsets (B, 2 · k_h · k_w, H', W'), y (B, O, H', W').
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ctxvision.ops._exporting import sizes_as_numbers
from ctxvision.ops._geometry import accumulation_dtype
from ctxvision.ops.aggregation.portable import sum_of_shifts


def contextual_conv(
    x: Tensor,
    weight: Tensor,
    sampling_offset: Tensor | None,
    weight_offset: Tensor | None,
    mask: Tensor | None,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Return what `ctxvision.ops.contextual_conv2d` returns, (B, O, H', W'), for arguments that have been checked."""
    with sizes_as_numbers():
        channels, made, kernel = int(x.shape[1]), int(weight.shape[0]), tuple(int(n) for n in weight.shape[2:])
    if sampling_offset is None and mask is None:
        y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
        if weight_offset is None:
            return y
        # kernels that differ between images are weights of a local aggregation that are the same everywhere
        padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0])) if any(padding) else x
        maps = weight_offset.flatten(2)[..., None, None].unbind(2)  # (B, C, 1, 1) each
        bent = sum_of_shifts(padded, maps, kernel, stride, dilation)
        if made == channels == groups:
            return y + bent
        # one map of each group, for all of its output channels
        bent = bent.unflatten(1, (groups, channels // groups)).sum(2, keepdim=True)
        return (y.unflatten(1, (groups, made // groups)) + bent).flatten(1, 2)
    if sampling_offset is None:
        assert mask is not None
        sampling_offset = torch.zeros_like(torch.cat([mask, mask], 1))
    return _sampled(x, weight, sampling_offset, weight_offset, mask, bias, stride, padding, dilation, groups)


def _sampled(
    x: Tensor,
    weight: Tensor,
    sampling_offset: Tensor,
    weight_offset: Tensor | None,
    mask: Tensor | None,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Return the convolution of what the taps sample, one tap after the other, or, unless depthwise, one row of them.

    A sample is a product (1, 4) x (4, C) of interpolation coefficients with four rows of a table of pixels.
    """
    with sizes_as_numbers():
        (kernel_rows, kernel_columns), made = (int(n) for n in weight.shape[2:]), int(weight.shape[0])
        depthwise = made == groups == int(x.shape[1])
    table = F.pad(x, (2, 2, 2, 2)).permute(0, 2, 3, 1).flatten(0, 2)  # two pixels of zeros around each image
    indices, coefficients = _corners(
        x.shape[0], x.shape[2:], sampling_offset, mask, weight.shape[2:], stride, padding, dilation
    )
    coefficients = coefficients.to(x.dtype)
    kernels = weight.unflatten(0, (groups, made // groups)).permute(0, 3, 4, 2, 1)  # (G, k_h, k_w, C / G, O / G)
    if weight_offset is not None:
        bends = weight_offset.unflatten(1, (groups, -1)).permute(0, 1, 3, 4, 2).unsqueeze(-1)
        kernels = kernels + bends  # (B, G, k_h, k_w, C / G, O / G)
    total: Tensor | None = None
    if depthwise:
        by_tap = kernels.flatten(-4, -3).squeeze(-1).unsqueeze(-3)  # ([B,] C, 1, K, 1)
        by_tap = by_tap.transpose(-1, -4)  # ([B,] 1, 1, K, C)
        places, shares = indices.unbind(3), coefficients.unbind(3)
        for place, share, kernel in zip(places, shares, by_tap.unbind(-2), strict=True):
            part = (share @ F.embedding(place, table)) * kernel.unsqueeze(-2)  # (B, H', W', 1, C)
            total = part if total is None else total + part
        assert total is not None  # a kernel has at least one tap
        y = total.squeeze(-2).permute(0, 3, 1, 2)
    else:
        for u in range(kernel_rows):
            row = slice(u * kernel_columns, (u + 1) * kernel_columns)
            samples = (coefficients[:, :, :, row] @ F.embedding(indices[:, :, :, row], table)).squeeze(-2)
            samples = samples.unflatten(-1, (groups, -1)).movedim(-2, 1)  # (B, G, H', W', k_w, C / G)
            # of each group a matrix (H' W', k_w C / G) times its kernels
            part = samples.flatten(2, 3).flatten(-2) @ kernels[..., u, :, :, :].flatten(-3, -2)
            total = part if total is None else total + part
        assert total is not None
        y = total.transpose(-1, -2).flatten(1, 2)  # (B, O, H' W')
        y = y.reshape(-1, made, *sampling_offset.shape[2:])
    return y if bias is None else y + bias[:, None, None]


def _corners(
    batch: int,
    size: Sequence[int],
    sampling_offset: Tensor,
    mask: Tensor | None,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Return of each sample the four rows of the table, and their coefficients, (B, H', W', K, 4) and (…, K, 1, 4)."""
    like = {"dtype": accumulation_dtype(sampling_offset.dtype), "device": sampling_offset.device}
    rows, columns = sampling_offset.shape[2:]
    with sizes_as_numbers():
        taps = torch.arange(int(kernel[0]) * int(kernel[1]), device=sampling_offset.device)
        down, right = taps // int(kernel[1]) * dilation[0], taps % int(kernel[1]) * dilation[1]
    offsets = sampling_offset.to(like["dtype"]).permute(0, 2, 3, 1).unflatten(3, (-1, 2))  # (B, H', W', K, 2)
    y0 = (torch.arange(rows, **like) * stride[0] - padding[0])[:, None, None] + down
    x0 = (torch.arange(columns, **like) * stride[1] - padding[1])[:, None] + right
    # two pixels outside is as far as any distance: infinite offsets stay finite, and indices in range
    y = _clamped(offsets[..., 0] + y0, size[0])
    x = _clamped(offsets[..., 1] + x0, size[1])
    top, left = y.floor(), x.floor()
    lower, rightmost = y - top, x - left
    upper, leftmost = 1 - lower, 1 - rightmost
    if mask is not None:
        modulation = mask.to(like["dtype"]).permute(0, 2, 3, 1)
        upper, lower = upper * modulation, lower * modulation
    width = size[1] + 4
    images = torch.arange(batch, device=sampling_offset.device)[:, None, None, None] * ((size[0] + 4) * width)
    # once more, because NaN becomes any integer
    first = images + (_clamped(top.long(), size[0]) + 2) * width + _clamped(left.long(), size[1]) + 2
    indices = torch.stack([first, first + 1, first + width, first + width + 1], -1)
    shares = (upper * leftmost, upper * rightmost, lower * leftmost, lower * rightmost)
    return indices, torch.stack(shares, -1).unsqueeze(-2)


def _clamped(position: Tensor, size: int) -> Tensor:
    """Return positions from two pixels before the image to its first pixel outside, where nothing is read."""
    if isinstance(size, Tensor):  # as `torch.jit.trace` has it
        return torch.minimum(position.clamp(min=-2), size.to(position.dtype))
    return position.clamp(-2, size)
