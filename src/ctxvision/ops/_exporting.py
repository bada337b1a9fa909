"""Whether operators stay in a graph that is being recorded, or become standard ones that every runtime knows."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_kept = False  # one for the process, as torch's own flags of its exporters are


@contextmanager
def keep_operators() -> Iterator[None]:
    """Let `torch.export` keep the operators of this library in its graphs, until the block ends.

    A graph that runs in torch, with this library or through AOTInductor, is faster with them. Without this, exporters
    and `torch.jit.trace` record standard operators, so that their files need nothing of this library.

    Example:
        >>> import torch
        >>> from ctxvision.nn import Involution2d
        >>> from ctxvision.ops import keep_operators
        >>> with keep_operators():
        ...     program = torch.export.export(Involution2d(16).eval(), (torch.randn(2, 16, 8, 8),))
        >>> [str(n.target) for n in program.graph.nodes if "ctxvision" in str(n.target)]
        ['ctxvision.local_aggregation.default']
    """
    global _kept
    before, _kept = _kept, True
    try:
        yield
    finally:
        _kept = before


def standard_operators() -> bool:
    """Whether a graph is being recorded for somebody else: by `torch.export` or `torch.jit.trace`.

    Both of `torch.onnx.export`'s exporters use one of them; `torch.compile` uses neither.
    """
    return torch.jit.is_tracing() or (torch.compiler.is_exporting() and not _kept)


@contextmanager
def sizes_as_numbers() -> Iterator[None]:
    """Give sizes as numbers, also while `torch.jit.trace` records, which makes tensors of them, until the block ends."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[arg-type]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)
