"""What constructors of layers refuse, and when a layer may be computed by its weights alone."""

from typing import NoReturn

from torch import Tensor, nn

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


def is_plain(layer: nn.Module, kind: type[nn.Module], *inputs: Tensor) -> bool:
    """Whether calling ``layer`` does what ``kind`` does and nothing else: no subclass, no wrapper, no hook.

    A layer with a weight is not plain while a graph is recorded for others, in which tools look for whole layers with
    constant weights, nor if the weight is of a class of its own, as torchao's quantised ones are.
    """
    if is_symbolic(*inputs):
        return False
    weight = layer._parameters.get("weight")
    if weight is not None and (standard_operators() or hasattr(type(weight), "__tensor_flatten__")):
        return False
    hooks = (
        layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks,
    )  # fmt: skip
    return type(layer) is kind and not any(hooks)


def is_symbolic(*tensors: Tensor) -> bool:
    """Whether these are what `torch.fx` puts in place of tensors: nothing about them can be asked."""
    return not all(isinstance(tensor, Tensor) for tensor in tensors)


def refuse_script(layer: nn.Module) -> NoReturn:
    """Say what to do in place of `torch.jit.script`, which calls this as a module's ``__prepare_scriptable__``.

    Raises:
        RuntimeError: Always.
    """
    raise RuntimeError(
        f"torch.jit.script cannot compile {type(layer).__name__} of ctxvision; torch.jit.trace(model.eval(), images) "
        "makes a TorchScript file of standard operators, and torch.export.export a graph"
    )
