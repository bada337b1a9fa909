"""Local aggregation: every position sums its neighbours with weights of its own."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ctxvision.ops._exporting import recorded_form, sizes_as_numbers
from ctxvision.ops._geometry import as_pair, autocast_inputs

from . import onnx_node, portable
from .checks import check_aggregate, kernel_side
from .op import aggregate

__all__ = ["local_aggregation"]


def local_aggregation(
    x: Tensor,
    weight: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | None = None,
    dilation: int | Sequence[int] = 1,
    grouping: Literal["blocked", "interleaved"] = "blocked",
) -> Tensor:
    """Sum the neighbourhood of each position with that position's own weights.

        y[b, c, i, j] = Σ_{u,v} weight[b, g(c), u·k + v, i, j] · x[b, c, i·s + u·d - p, j·s + v·d - p]

    with ``x`` zero outside the image; zero times a weight that is NaN or infinite is NaN. This is
    ``V ⊛ A`` of CoTNet (equation 5, interleaved groups) and involution (blocked groups). Differentiable
    any number of times and in both modes in both arguments; half precision accumulates in float32;
    under autocast both arguments are cast as for a convolution.

    Args:
        x: Values, ``(B, C, H, W)``, any memory format; the result keeps it.
        weight: One ``k x k`` map per group and output position, ``(B, G, k*k, H', W')``; ``k`` is
            read from the shape, taps are ordered row by row, and ``C`` must be a multiple of ``G``.
        stride: Step between output positions in pixels, one integer or ``(vertical, horizontal)``.
        padding: Number of zeros on each side, in pixels, one integer or ``(vertical, horizontal)``; ``None`` means
            ``dilation * (k - 1) // 2``, which keeps the size for odd ``k``.
        dilation: Distance between taps in pixels, one integer or ``(vertical, horizontal)``.
        grouping: Assignment of the ``C`` channels to the ``G`` maps: ``"blocked"``, ``g(c) = c // (C / G)``, or
            ``"interleaved"``, ``g(c) = c mod G``.

    Returns:
        The sums, ``(B, C, H', W')`` with ``H' = (H + 2p - d(k - 1) - 1) // s + 1``, and ``W'`` in the same way.

    Raises:
        ValueError: If the shapes, dtypes or devices do not fit; the message names both shapes and the rule.

    Examples:
        >>> import torch
        >>> from ctxvision.ops import local_aggregation
        >>> x, weight = torch.randn(2, 32, 14, 14), torch.randn(2, 4, 9, 7, 7)
        >>> local_aggregation(x, weight, stride=2).shape
        torch.Size([2, 32, 7, 7])
    """
    if has_torch_function((x, weight)):  # as torch's own functions do: a symbolic trace records one call
        overridden: Tensor = handle_torch_function(
            local_aggregation, (x, weight), x, weight,
            stride=stride, padding=padding, dilation=dilation, grouping=grouping,
        )  # fmt: skip
        return overridden
    if grouping not in ("blocked", "interleaved"):
        raise ValueError(f"grouping must be 'blocked' or 'interleaved', got {grouping!r}")
    x, weight = autocast_inputs(x, weight)  # type: ignore[assignment]
    if torch.jit.is_tracing():
        with sizes_as_numbers():
            geometry = _geometry(x, weight, stride, padding, dilation)
    else:
        geometry = _geometry(x, weight, stride, padding, dilation)
    forms: dict[str, Callable[..., Tensor]] = {
        "operators": aggregate, "standard": portable.aggregate, "onnx nodes": onnx_node.aggregate,
    }  # fmt: skip
    result: Tensor = forms[recorded_form()](x, weight, *geometry, grouping == "interleaved")
    return result


def _geometry(
    x: Tensor,
    weight: Tensor,
    stride: int | Sequence[int],
    padding: int | Sequence[int] | None,
    dilation: int | Sequence[int],
) -> tuple[list[int], list[int], list[int]]:
    """Return stride, padding and dilation as pairs, checked as `local_aggregation` says."""
    strides, dilations = as_pair(stride, "stride", 1), as_pair(dilation, "dilation", 1)
    kernel = max(1, kernel_side(weight.shape[2])) if weight.dim() == 5 else 1  # other weights are refused below
    paddings = [d * (kernel - 1) // 2 for d in dilations] if padding is None else as_pair(padding, "padding", 0)
    check_aggregate(x, weight, strides, paddings, dilations)
    return strides, paddings, dilations
