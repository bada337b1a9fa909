"""What the operator and its backward take: checked at the door of every kernel, real or fake."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ctxvision.ops._geometry import as_pair, check_same_kind, output_size, too_wide


def check_contextual_conv(
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
) -> list[int]:
    """Return the output size (H', W').

    Raises:
        ValueError: If shapes, dtypes, devices or layouts do not fit; the message names both shapes and the rule.
    """
    op, shapes = "contextual_conv2d", f"x {tuple(x.shape)}, weight {tuple(weight.shape)}"
    if x.dim() != 4 or weight.dim() != 4:
        raise ValueError(f"{op} needs x (B, C, H, W) and weight (O, C / groups, kh, kw), got {shapes}")
    as_pair(stride, "stride", 1)
    as_pair(padding, "padding", 0)
    as_pair(dilation, "dilation", 1)
    batch, channels, *size = x.shape
    out_channels, group_channels, *kernel = weight.shape
    # min() of symbolic sizes would compile anew for every order of theirs
    if any(n < 1 for n in kernel):
        raise ValueError(f"{op}: weight must hold at least one tap, got {shapes}")
    is_whole = isinstance(groups, int | torch.SymInt) and not isinstance(groups, bool)
    if not is_whole or groups < 1 or channels != group_channels * groups or out_channels % groups:
        raise ValueError(
            f"{op}: x must have weight.shape[1] * groups channels and weight.shape[0] must be a multiple of "
            f"groups, got {shapes}, groups {groups}"
        )
    out_size = output_size(size, kernel, stride, padding, dilation)
    if any(n < 1 for n in out_size):
        raise ValueError(
            f"{op}: the output size (H + 2p - d(k - 1) - 1) // s + 1 = {tuple(out_size)} must be positive, "
            f"got {shapes}, stride {stride}, padding {padding}, dilation {dilation}"
        )
    rule = too_wide(size, padding)
    if rule is not None:
        raise ValueError(f"{op}: {rule}, got {shapes}")
    taps = kernel[0] * kernel[1]
    rules = (
        ("sampling_offset", sampling_offset, (batch, 2 * taps, *out_size), "(B, 2 * kh * kw, H', W')"),
        ("weight_offset", weight_offset, (batch, channels, *kernel), "(B, C, kh, kw)"),
        ("mask", mask, (batch, taps, *out_size), "(B, kh * kw, H', W')"),
        ("bias", bias, (out_channels,), "(O,)"),
    )
    for argument, tensor, shape, named in rules:
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{op}: {argument} must be {named} = {shape} for {shapes}, got {tuple(tensor.shape)}")
    check_same_kind(
        op, x=x, weight=weight, sampling_offset=sampling_offset, weight_offset=weight_offset, mask=mask, bias=bias
    )
    return out_size


def check_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    sampling_offset: Tensor,
    weight_offset: Tensor | None,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needs: Sequence[bool],
) -> None:
    """Raise ``ValueError`` unless `contextual_conv_backward` can compute this."""
    op = "contextual_conv2d_backward"
    size = check_contextual_conv(
        x, weight, sampling_offset, weight_offset, mask, None, stride, padding, dilation, groups
    )
    if grad.shape != (x.shape[0], weight.shape[0], *size):
        raise ValueError(
            f"{op}: grad must be (B, O, H', W') = {(x.shape[0], weight.shape[0], *size)}, got {tuple(grad.shape)}"
        )
    check_same_kind(op, grad=grad, x=x)
    if len(needs) != 5:
        raise ValueError(f"{op}: needs must say of five tensors whether their gradient is wanted, got {needs}")
