"""Other ways to compute the operators, as one would write them with torch and torchvision."""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gate import oracle


def unfold(x: Tensor, weight: Tensor, grouping: str) -> Tensor:
    """Local aggregation of (B, C, H, W) and (B, G, K, H, W) through `unfold`; the maps are broadcast."""
    batch, channels, *size = x.shape
    groups, taps = weight.shape[1:3]
    kernel = round(taps**0.5)
    patches = F.unfold(x, kernel, padding=kernel // 2)
    if grouping == "blocked":
        split = patches.view(batch, groups, channels // groups, taps, *size)
        return (split * weight.unsqueeze(2)).sum(3).flatten(1, 2)
    split = patches.view(batch, channels // groups, groups, taps, *size)
    return (split * weight.unsqueeze(1)).sum(3).flatten(1, 2)


def shifted_sum(x: Tensor, weight: Tensor, grouping: str) -> Tensor:
    """The same as a sum over the taps of the shifted image; nothing is unfolded."""
    height, width = x.shape[2:]
    groups, taps = weight.shape[1:3]
    kernel = round(taps**0.5)
    padded = F.pad(x, [kernel // 2] * 4)
    padded = padded.unflatten(1, (groups, -1) if grouping == "blocked" else (-1, groups))
    maps = weight.unsqueeze(2 if grouping == "blocked" else 1)  # (B, G, 1, K, H, W) or (B, 1, G, K, H, W)
    y: Tensor = padded[..., :height, :width] * maps[:, :, :, 0]
    for n in range(1, taps):
        u, v = divmod(n, kernel)
        y = y + padded[..., u : u + height, v : v + width] * maps[:, :, :, n]
    return y.flatten(1, 2)


def folded_deform_conv2d(
    x: Tensor, weight: Tensor, offset: Tensor, weight_offset: Tensor, padding: int, groups: int
) -> Tensor:
    """Contextual convolution through torchvision, every image a group; half precision in float32.

    torchvision's own autocast rule computes this operator in float32.
    """
    tensors = [x, weight, offset, weight_offset]
    if x.dtype in (torch.float16, torch.bfloat16):
        tensors = [tensor.float() for tensor in tensors]
    y: Tensor = oracle.contextual_conv2d_torchvision(*tensors, padding=padding, groups=groups)
    return y.to(x.dtype)


def plain_conv2d(x: Tensor, weight: Tensor, *_: Tensor, padding: int, groups: int) -> Tensor:
    """The convolution without context: a floor, it computes less."""
    return F.conv2d(x, weight, padding=padding, groups=groups)
