"""What constructors of layers refuse, and when a layer may be computed by its weights alone."""

from typing import Any, Literal

from torch import nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ctxvision.ops._exporting import standard_operators


def require_positive(layer: str, **values: int) -> None:
    """Raise ``ValueError`` unless all values are integers of at least 1."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{layer}: {name} must be an integer >= 1, got {value!r}")


def require_odd_kernel(layer: str, kernel_size: int) -> None:
    """Raise ``ValueError`` unless the kernel has a middle."""
    require_positive(layer, kernel_size=kernel_size)
    if kernel_size % 2 == 0:
        raise ValueError(f"{layer}: kernel_size must be odd to keep the size, got {kernel_size}")


NormKind = Literal["layer", "batch"]


def require_norm(layer: str, norm: str) -> None:
    """Raise ``ValueError`` unless the kind of norm is known."""
    if norm not in ("layer", "batch"):
        raise ValueError(f"{layer}: norm must be 'layer' or 'batch', got {norm!r}")


def vector_norm(norm: NormKind, width: int, **placed: Any) -> nn.Module:
    """Return a layer norm, or a batch norm, of vectors ``(B, width)``."""
    return nn.LayerNorm(width, **placed) if norm == "layer" else nn.BatchNorm1d(width, **placed)


def refuse_scripting(layer: nn.Module) -> nn.Module:
    """Refuse `torch.jit.script`, which asks a module for its scriptable form by ``__prepare_scriptable__``.

    Raises:
        NotImplementedError: Always.
    """
    raise NotImplementedError(
        f"torch.jit.script cannot compile {type(layer).__name__}: TorchScript knows no keyword-only arguments and "
        "none of our operators; use torch.jit.trace(model.eval(), images) or torch.export.export"
    )


def is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling ``layer`` does what ``kind`` does and nothing else: no subclass, no wrapper, no hook.

    Some tools put a ``forward`` of their own on one layer, or hooks on all layers. A quantised or otherwise
    wrapped weight cannot be sliced and reshaped as a tensor can. Nor is a layer with a weight plain while a graph
    is recorded for others: their tools look for whole layers with constant weights.
    """
    # asked some hundred times for an image: the cheap questions first, in one expression
    if (
        type(layer) is not kind
        or layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or "forward" in layer.__dict__
        or _has_any_global_hook()
    ):
        return False
    parameters = layer._parameters
    for tensor in parameters.values():
        if type(tensor) is not nn.Parameter and is_traceable_wrapper_subclass(tensor):
            return False
    return parameters.get("weight") is None or not standard_operators()
