"""Contextual convolution: kernels and sampling grids that bend for each image."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ctxvision.ops._exporting import recorded_form, sizes_as_numbers
from ctxvision.ops._geometry import as_pair, autocast_inputs, is_channels_last, like_layout

from . import onnx_node, portable
from .checks import check_contextual_conv
from .op import contextual_conv

__all__ = ["contextual_conv2d"]


def contextual_conv2d(
    x: Tensor,
    weight: Tensor,
    sampling_offset: Tensor | None,
    weight_offset: Tensor | None = None,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve each image with its own kernel offsets and its own sampling grid.

        y[b, o, p] = bias[o] + Σ_{c,n} (weight[o, c, n] + Δw[b, c, n]) · m[b, n, p]
                               · x[b, c, p·s + g(n) + Δp[b, n, p]]

    with bilinear sampling and ``x`` zero outside the image, where zero times NaN or infinity is NaN
    (Contextual CNN, equation 4; ``m`` is the modulation of Deformable ConvNets v2). Differentiable
    any number of times and in both modes in every tensor argument; half precision accumulates, and
    positions are computed, in float32.

    Args:
        x: Input, ``(B, C, H, W)``, any memory format; the result keeps it.
        weight: Kernel shared by the batch, ``(O, C / groups, kh, kw)``.
        sampling_offset: Sampling offsets in pixels, ``(B, 2 * kh * kw, H', W')``, ``(y, x)`` per tap as in
            `torchvision.ops.deform_conv2d`; ``None`` samples the regular grid.
        weight_offset: Kernel offsets per image and input channel, ``(B, C, kh, kw)``, shared by all
            output channels that read the channel; ``None`` means zero.
        mask: Modulation per tap and output position, ``(B, kh * kw, H', W')``; ``None`` means one.
        bias: Bias per output channel, ``(O,)``; ``None`` means zero.
        stride: Step between output positions in pixels, one integer or ``(vertical, horizontal)``.
        padding: Number of zeros on each side, in pixels, one integer or ``(vertical, horizontal)``.
        dilation: Distance between taps in pixels, one integer or ``(vertical, horizontal)``.
        groups: Number of channel groups; ``groups = C`` is the depthwise convolution of ConvNeXt.

    Returns:
        The convolved images, ``(B, O, H', W')`` with ``H' = (H + 2p - d(k - 1) - 1) // s + 1``, and ``W'`` in the
        same way.

    Raises:
        ValueError: If the shapes, dtypes or devices do not fit; the message names both shapes and the rule.

    Examples:
        >>> import torch
        >>> from ctxvision.ops import contextual_conv2d
        >>> x, kernel = torch.randn(2, 8, 14, 14), torch.randn(8, 1, 7, 7)
        >>> sampling_offset, weight_offset = torch.randn(2, 98, 14, 14), torch.randn(2, 8, 7, 7)
        >>> contextual_conv2d(x, kernel, sampling_offset, weight_offset, padding=3, groups=8).shape
        torch.Size([2, 8, 14, 14])
    """
    tensors = (x, weight, sampling_offset, weight_offset, mask, bias)
    if has_torch_function(tensors):  # as torch's own functions do: a symbolic trace records one call
        overridden: Tensor = handle_torch_function(
            contextual_conv2d, tensors, *tensors, stride=stride, padding=padding, dilation=dilation, groups=groups
        )
        return overridden
    strides, paddings, dilations = (
        as_pair(stride, "stride", 1), as_pair(padding, "padding", 0), as_pair(dilation, "dilation", 1),
    )  # fmt: skip
    tensors = autocast_inputs(*tensors)  # type: ignore[assignment]
    if torch.jit.is_tracing():
        with sizes_as_numbers():
            out_size = check_contextual_conv(*tensors, strides, paddings, dilations, groups)
    else:
        out_size = check_contextual_conv(*tensors, strides, paddings, dilations, groups)
    form = recorded_form()
    if form == "onnx nodes" and sampling_offset is not None:
        return onnx_node.contextual_conv(*tensors, strides, paddings, dilations, groups)  # type: ignore[arg-type]
    if form != "operators":
        return portable.contextual_conv(*tensors, strides, paddings, dilations, groups)
    x, weight, sampling_offset, weight_offset, mask, bias = tensors
    batch, taps = x.shape[0], weight.shape[2] * weight.shape[3]
    regular = sampling_offset is None and mask is None
    if regular and (weight_offset is None or batch > 0):  # torch has no groups = 0
        return _regular_grid(x, weight, weight_offset, bias, strides, paddings, dilations, groups)
    if sampling_offset is None:
        sampling_offset = x.new_zeros((batch, 2 * taps, *out_size))
    result: Tensor = contextual_conv(
        x, weight, sampling_offset, weight_offset, mask, bias, strides, paddings, dilations, groups
    )  # fmt: skip
    return result


def _regular_grid(
    x: Tensor,
    weight: Tensor,
    weight_offset: Tensor | None,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """Return ``(B, O, H', W')`` of the regular grid, arguments as in `contextual_conv2d`.

    Without sampling offsets, kernels that differ by image are a plain convolution with the batch as groups.
    """
    if weight_offset is None:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    batch, channels, height, width = x.shape
    folded = x.reshape(1, batch * channels, height, width)
    if groups == channels == weight.shape[0]:
        kernels = (weight[None] + weight_offset.unsqueeze(2)).flatten(0, 1)  # (B * C, 1, kh, kw)
        y = F.conv2d(folded, kernels, None, stride, padding, dilation, batch * channels)
        y = y.reshape(batch, channels, *y.shape[2:])
        y = y if bias is None else y + bias[:, None, None]
        return like_layout(y, x) if is_channels_last(x) else y
    # the offsets are shared by the output channels of a group: one extra map per image and group
    y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    kernels = weight_offset.reshape(batch * groups, channels // groups, *weight_offset.shape[2:])
    per_group = F.conv2d(folded, kernels, None, stride, padding, dilation, batch * groups)
    spread = per_group.reshape(batch, groups, *y.shape[2:]).repeat_interleave(y.shape[1] // groups, dim=1)
    return torch.add(y, spread)
