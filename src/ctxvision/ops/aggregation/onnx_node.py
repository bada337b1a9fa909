"""Local aggregation as an ONNX node that our own kernel computes, see ``_native/onnxruntime.cpp``."""

from collections.abc import Sequence

import torch
from torch import Tensor


def aggregate(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    interleaved: bool,
) -> Tensor:
    """Return what the operator returns, (B, C, H', W'), for arguments that have been checked.

    The result is zero: this records a node in a graph, and computes nothing.
    """
    steps = {"stride": list(stride), "padding": list(padding), "dilation": list(dilation)}
    return torch.onnx.ops.symbolic(
        "ctxvision::LocalAggregation",
        (x, weight),
        {**steps, "interleaved": int(interleaved)},
        dtype=x.dtype,
        shape=(*x.shape[:2], *weight.shape[3:]),
        version=1,
    )
