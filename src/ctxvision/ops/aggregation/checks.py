"""What the operator and its two adjoints take: checked at the door of every kernel, real or fake."""

from collections.abc import Sequence

from torch import Tensor

from ctxvision.ops._geometry import as_pair, check_same_kind, output_size, too_wide

Shape = Sequence[int]


def kernel_side(taps: int) -> int:
    """Return k of k*k taps; of another number something whose square is not it."""
    # torch.compile traces a power of a size, and no math.isqrt
    side: int = round(max(0, int(taps)) ** 0.5)
    return side


def _broken_rule(
    x: Shape, weight: Shape, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> str | None:
    """Return which rule the shapes of x, or of its gradient, and of the weight break."""
    if len(x) != 4 or len(weight) != 5:
        return "x must be (B, C, H, W) and weight (B, G, k*k, H', W')"
    (batch, channels, *size), (weight_batch, groups, taps, *weight_size) = x, weight
    kernel = kernel_side(taps)
    if taps < 1 or kernel * kernel != taps:
        return "weight must hold k*k taps in dimension 2, a square number"
    if batch != weight_batch:
        return "x and weight need the same batch size"
    if groups < 1 or channels % groups:
        return "channels must be a multiple of groups"
    # min() of symbolic sizes would compile anew for every order of theirs
    if any(n < 0 for n in size):
        return "the size of x must not be negative"
    expected = output_size(size, (kernel, kernel), stride, padding, dilation)
    if weight_size != expected or any(n < 1 for n in expected):
        return (
            "weight must have one map per output position, (H + 2p - d(k - 1) - 1) // s + 1 = "
            f"{tuple(expected)} for stride {stride}, padding {padding}, dilation {dilation}, k {kernel}"
        )
    return too_wide(size, padding)


def _check_steps(stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> None:
    as_pair(stride, "stride", 1)
    as_pair(padding, "padding", 0)
    as_pair(dilation, "dilation", 1)


def check_aggregate(
    x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> None:
    """Raise ``ValueError`` unless `aggregate` can compute this; the message names both shapes and the rule."""
    op = "local_aggregation"
    _check_steps(stride, padding, dilation)
    rule = _broken_rule(x.shape, weight.shape, stride, padding, dilation)
    if rule is not None:
        raise ValueError(f"{op}: {rule}, got x {tuple(x.shape)}, weight {tuple(weight.shape)}")
    check_same_kind(op, x=x, weight=weight)


def check_input_grad(
    grad: Tensor,
    weight: Tensor,
    input_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> None:
    """Raise ``ValueError`` unless `aggregate_input_grad` can compute this."""
    op = "local_aggregation_input_grad"
    _check_steps(stride, padding, dilation)
    rule: str | None = "grad must be (B, C, H', W') and input_size (H, W)"
    if grad.dim() == 4 and len(input_size) == 2:
        rule = _broken_rule((*grad.shape[:2], *input_size), weight.shape, stride, padding, dilation)
        if rule is None and grad.shape[2:] != weight.shape[3:]:
            rule = "grad and weight need the same H', W'"
    if rule is not None:
        shapes = f"grad {tuple(grad.shape)}, weight {tuple(weight.shape)}, input_size {tuple(input_size)}"
        raise ValueError(f"{op}: {rule}, got {shapes}")
    check_same_kind(op, grad=grad, weight=weight)


def check_weight_grad(
    x: Tensor,
    grad: Tensor,
    groups: int,
    taps: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> None:
    """Raise ``ValueError`` unless `aggregate_weight_grad` can compute this."""
    op = "local_aggregation_weight_grad"
    _check_steps(stride, padding, dilation)
    rule: str | None = "x must be (B, C, H, W) and grad (B, C, H', W')"
    if x.dim() == grad.dim() == 4:
        rule = _broken_rule(x.shape, (grad.shape[0], groups, taps, *grad.shape[2:]), stride, padding, dilation)
        if rule is None and grad.shape[1] != x.shape[1]:
            rule = "x and grad need the same channels"
    if rule is not None:
        shapes = f"x {tuple(x.shape)}, grad {tuple(grad.shape)}, groups {groups}, taps {taps}"
        raise ValueError(f"{op}: {rule}, got {shapes}")
    check_same_kind(op, x=x, grad=grad)
