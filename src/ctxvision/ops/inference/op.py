"""The contexts of a CoT layer as an operator of graphs that `torch.compile` makes, in inference on a CPU."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import cpu, reference
from .cpu import Context, Norm


@torch.library.custom_op("ctxvision::cot_context", mutates_args=())
def _cot_context(
    raw: Tensor,
    values: Tensor,
    static: Tensor,
    tensors: Sequence[Tensor | None],
    eps: Sequence[float],
    sizes: Sequence[int],
) -> Tensor:
    context = _context(tensors, eps, sizes)
    raw, values, static = (image.contiguous(memory_format=torch.channels_last) for image in (raw, values, static))
    if cpu.computes(values) and cpu.can_read(values, raw, static, *context.tensors()):
        return cpu.cot_context(raw, values, static, context)
    return reference.cot_context(raw, values, static, context).contiguous(memory_format=torch.channels_last)


@_cot_context.register_fake
def _(raw: Tensor, values: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(values, memory_format=torch.channels_last)


def cot_context(raw: Tensor, values: Tensor, static: Tensor, context: Context) -> Tensor:
    """Return the fused context of a CoT layer, ``(B, C, H, W)`` in channels-last; arguments as in ``cpu.py``.

    It has no derivative.
    """
    norms = (context.values_norm, context.result_norm, context.hidden_norm)
    eps = [context.maps_eps, *(0.0 if norm is None else norm.eps for norm in norms)]
    sizes = [context.maps, context.kernel, context.dilation, context.groups]
    result: Tensor = _cot_context(raw, values, static, list(context.tensors()), eps, sizes)
    return result


def _context(tensors: Sequence[Tensor | None], eps: Sequence[float], sizes: Sequence[int]) -> Context:
    """Return what `Context.tensors` was made of."""
    t: Any = tensors
    norms = [Norm(t[at], t[at + 1], t[at + 2], t[at + 3], e) if t[at + 3] is not None else None
             for at, e in zip((2, 6, 12), eps[1:], strict=True)]  # fmt: skip
    return Context(t[0], t[1], eps[0], norms[0], norms[1], t[10], t[11], norms[2], t[16], t[17], *sizes)
