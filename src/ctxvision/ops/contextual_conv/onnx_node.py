"""Contextual convolution with ONNX nodes that our own kernels compute, see ``_native/onnxruntime.cpp``."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def contextual_conv(
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
    """Return what `ctxvision.ops.contextual_conv2d` returns, (B, O, H', W'), for arguments that have been checked.

    A depthwise convolution is one node. Otherwise a node samples, and matrix products of the runtime apply the
    kernels. The results are zero: this records nodes in a graph.
    """
    batch, size = x.shape[0], sampling_offset.shape[2:]
    out_channels, per_group, *kernel = weight.shape
    steps: dict[str, Any] = {"stride": list(stride), "padding": list(padding), "dilation": list(dilation)}
    if per_group == 1 and out_channels == groups:
        return torch.onnx.ops.symbolic(
            "ctxvision::DepthwiseContextualConv",
            _without_end((x, weight, sampling_offset, weight_offset, mask, bias)),
            steps,
            dtype=x.dtype,
            shape=(batch, out_channels, *size),
            version=1,
        )
    columns = torch.onnx.ops.symbolic(
        "ctxvision::ContextualSamples",
        _without_end((x, sampling_offset, mask)),
        {**steps, "kernel": list(kernel), "groups": groups},
        dtype=x.dtype,
        shape=(groups, batch, size[0] * size[1], kernel[0] * kernel[1] * per_group),
        version=1,
    )
    # columns have the taps first, then the channels of a group
    matrices = weight.reshape(groups, out_channels // groups, per_group, -1).permute(0, 3, 2, 1).flatten(1, 2)
    y = columns @ matrices.unsqueeze(1)  # (G, B, P, O / G)
    if weight_offset is not None:  # one more output of each group, which all its outputs share
        offsets = weight_offset.reshape(-1, groups, per_group, kernel[0] * kernel[1]).permute(1, 0, 3, 2)
        y = y + columns @ offsets.flatten(2).unsqueeze(-1)
    y = y.permute(1, 0, 3, 2).reshape(-1, out_channels, *size)
    return y if bias is None else y + bias[:, None, None]


def _without_end(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return tensors without the absent ones at their end, which a node leaves out."""
    last = max(n for n, tensor in enumerate(tensors) if tensor is not None)
    return list(tensors[: last + 1])
