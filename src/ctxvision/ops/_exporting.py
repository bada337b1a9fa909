"""Whether operators stay in a graph that is being recorded, or become standard ones that every runtime knows."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

Form = Literal["operators", "standard", "onnx nodes"]
_wanted: Form = "standard"  # one for the process, as torch's own flags of its exporters are


@contextmanager
def keep_operators() -> Iterator[None]:
    """Let `torch.export` keep the operators of this library in its graphs, until the block ends.

    A graph that runs in torch, with this library or through AOTInductor, is faster with them. Without this,
    exporters and `torch.jit.trace` record standard operators, so that their files need nothing of this library.

    Examples:
        >>> import torch
        >>> from ctxvision.nn import Involution2d
        >>> from ctxvision.ops import keep_operators
        >>> with keep_operators():
        ...     program = torch.export.export(Involution2d(16).eval(), (torch.randn(2, 16, 8, 8),))
        >>> [str(n.target) for n in program.graph.nodes if "ctxvision" in str(n.target)]
        ['ctxvision.local_aggregation.default']
    """
    with recording("operators"):
        yield


@contextmanager
def recording(form: Form) -> Iterator[None]:
    """Let `torch.export` record this form of our operators, until the block ends.

    ``"onnx nodes"`` are nodes of the ONNX domain ``ctxvision``: `torch.onnx.export` writes such a graph, and
    onnxruntime computes it with the kernels of this library, see `ctxvision.export.register_operators`; or
    `ctxvision.export` puts standard nodes in their places, for any runtime.
    """
    global _wanted
    before, _wanted = _wanted, form
    try:
        yield
    finally:
        _wanted = before


def recorded_form() -> Form:
    """Return what an operator is to become: itself, unless `torch.export` or `torch.jit.trace` records a graph.

    Both of `torch.onnx.export`'s exporters use one of the two; `torch.compile` uses neither.
    """
    if torch.jit.is_tracing():
        return "standard"
    return _wanted if torch.compiler.is_exporting() else "operators"


def standard_operators() -> bool:
    """Whether a graph of standard operators is being recorded, for somebody else."""
    return recorded_form() != "operators"


@contextmanager
def sizes_as_numbers() -> Iterator[None]:
    """Give sizes as numbers until the block ends; while it records, `torch.jit.trace` makes tensors of them."""
    tracer: Any = torch._C  # its type stubs lack the second function
    state = tracer._get_tracing_state()
    tracer._set_tracing_state(None)
    try:
        yield
    finally:
        tracer._set_tracing_state(state)
