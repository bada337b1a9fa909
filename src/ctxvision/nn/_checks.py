"""What constructors of layers refuse, and when a layer may be computed by its weights alone."""

from torch import nn


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


def is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling ``layer`` does what ``kind`` does and nothing else: no subclass, no wrapper, no hook."""
    hooks = (
        layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks,
    )  # fmt: skip
    return type(layer) is kind and not any(hooks)
