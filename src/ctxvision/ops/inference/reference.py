"""The contexts of a CoT layer in torch's operators: what the kernel computes, and where there is none."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ctxvision.ops.aggregation import local_aggregation

from .cpu import Context, Norm


def cot_context(raw: Tensor, values: Tensor, static: Tensor, context: Context) -> Tensor:
    """Return the fused context of a CoT layer, ``(B, C, H, W)``; arguments as in ``cpu.py``."""
    channels, groups = values.shape[1], context.groups
    maps = F.group_norm(raw, context.maps, context.maps_weight, context.maps_bias, context.maps_eps)
    maps = maps.unflatten(1, (context.maps, context.kernel**2))
    values = _normed(values, context.values_norm)
    parts = (t.unflatten(1, (groups, -1)).flatten(0, 1) for t in (values, maps))  # each group an image
    aggregated = local_aggregation(*parts, dilation=context.dilation, grouping="interleaved")
    aggregated = aggregated.unflatten(0, (-1, groups)).flatten(1, 2)
    dynamic = F.silu(_normed(aggregated, context.result_norm))
    pooled = dynamic.mean((2, 3), keepdim=True) + static.mean((2, 3), keepdim=True)
    hidden = F.conv2d(pooled, context.hidden_weight, context.hidden_bias)
    hidden = F.relu(_normed(hidden, context.hidden_norm))
    pair = F.conv2d(hidden, context.pair_weight, context.pair_bias).reshape(-1, channels, 2)
    share = pair.softmax(2)[..., :1, None]
    return torch.lerp(static, dynamic, share)


def _normed(x: Tensor, norm: Norm | None) -> Tensor:
    if norm is None:
        return x
    return F.batch_norm(x, norm.mean, norm.variance, norm.weight, norm.bias, eps=norm.eps)
