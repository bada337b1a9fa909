"""What layers do while `torch.fx` traces them: tensors have no values then, and no shapes to decide by."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from torch import fx
from torch.overrides import handle_torch_function

Function = TypeVar("Function", bound=Callable[..., Any])


def is_traced(x: object) -> bool:
    """Whether ``x`` is a placeholder of `torch.fx`, by which nothing can be decided."""
    return isinstance(x, fx.Proxy)


def leaf(function: Function) -> Function:
    """Make a function of tensors one node of a graph of `torch.fx`, which is called as it is when the graph runs.

    Its body may then look at dtypes, devices and shapes.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if any(is_traced(arg) for arg in args):
            return handle_torch_function(call, args, *args, **kwargs)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]
