"""Derivatives of the operators in both modes, at every level of `torch.func`.

`torch.library.custom_op` knows the backward pass alone: it drops tangents without a word, and `torch.func` refuses
it. Here an operator gets the kernel for autograd that torch's own operators have: it records the one level of
differentiation that is being processed, and sends the call on to the next.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction
from torch.library import Library

Tangents = Sequence[Tensor | None]
_LIBRARY = Library("ctxvision", "FRAGMENT")  # what it registers lives as long as it does


def transforms_active() -> bool:
    """Whether a transform of `torch.func` is running: tensors may stand for batches or carry derivatives."""
    return torch._C._are_functorch_transforms_active()


def add_in_place(total: Tensor, term: Tensor) -> Tensor:
    """Return the sum in the memory of ``total``, unless under `torch.func`: ``term`` may have more batches."""
    return total + term if transforms_active() else total.add_(term)


def register_derivatives(
    name: str,
    backward: Callable[..., tuple[Tensor | None, ...]],
    setup_context: Callable[[Any, tuple[Any, ...], Any], None],
    tangent: Callable[[Sequence[Any], Tangents], Tensor | Sequence[Tensor]],
) -> None:
    """Let derivatives of every order and mode be taken of the operator ``ctxvision::name``.

    Args:
        name: Name of the operator; its arguments are positional, and it changes none of them.
        backward: Function as `torch.library.register_autograd` takes it, made of operations that have derivatives
            themselves. Where there are several results, the gradient of one that nothing depends on is ``None``.
        setup_context: Function as `torch.library.register_autograd` takes it, called with positional arguments.
        tangent: Function that maps the arguments and their tangents, where ``None`` means zero, to the tangents of
            the results.
    """
    op = getattr(torch.ops.ctxvision, name).default

    def send_on(*args: Any) -> Any:
        *args, keyset = args  # type: ignore[assignment]
        with torch._C._AutoDispatchBelowAutograd():
            return op.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    def forward(*args: Any) -> Any:
        if not transforms_active():
            return send_on(*args)
        # an autograd function switches both modes off, also for the levels that are still to come
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
            return send_on(*args)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        args = inputs[:-1]
        ctx.set_materialize_grads(False)
        setup_context(ctx, args, output)
        if _may_have_tangents():
            ctx.save_for_forward(*(arg if isinstance(arg, Tensor) else None for arg in args))
            ctx.constants = [None if isinstance(arg, Tensor) else arg for arg in args]

    def differentiate(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(grad is None for grad in grads):
            return (None,) * len(ctx.needs_input_grad)
        return (*backward(ctx, *grads), None)

    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        args = [
            constant if tensor is None else torch._VF._unpack_dual(tensor, level=0)[0]
            for tensor, constant in zip(ctx.saved_tensors, ctx.constants, strict=True)
        ]
        with forward_ad._set_fwd_grad_enabled(True):  # as above; the arguments have no tangents any more
            return tangent(args, tangents[:-1])

    functions = {"forward": forward, "setup_context": setup, "backward": differentiate, "jvp": jvp}
    function: Any = type(name, (_SingleLevelFunction,), {key: staticmethod(f) for key, f in functions.items()})

    def kernel(keyset: Any, *args: Any) -> Any:
        if transforms_active():
            with enable_single_level_autograd_function():
                return function.apply(*args, keyset)
        if _may_have_tangents() or (torch.is_grad_enabled() and torch._C._any_requires_grad(*args)):
            return function.apply(*args, keyset)
        return send_on(*args, keyset)

    with warnings.catch_warnings():  # torch says once per process that some kernel was replaced
        warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)
        _LIBRARY.impl(name, kernel, "Autograd", with_keyset=True, allow_override=True)


def tangents_through(
    function: Callable[..., Sequence[Tensor]], args: Sequence[Any], tangents: Tangents
) -> Sequence[Tensor]:
    """Return the tangents of the results of a function of plain torch."""
    duals = [
        arg if tangent is None else torch._VF._make_dual(arg, tangent, level=0)
        for arg, tangent in zip(args, tangents, strict=True)
    ]
    pairs = (torch._VF._unpack_dual(result, level=0) for result in function(*duals))
    return tuple(torch.zeros_like(primal) if tangent is None else tangent for primal, tangent in pairs)


def _may_have_tangents() -> bool:
    # transforms may have been traced by a compiler, which does not tell `forward_ad`
    return forward_ad._current_level >= 0 or transforms_active()


def fold_images(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """Fold the dimension of size ``size`` that `torch.vmap` runs over into the images, dimension 0.

    Args:
        tensor: Tensor ``(B, ...)`` with the images in dimension 0 of each call, and the calls in ``dim``; without
            ``dim`` all calls share it.
        dim: Position of the dimension of the calls, or ``None``.
        size: Number of calls.

    Returns:
        A tensor ``(size * B, ...)`` with ``size`` times as many images in dimension 0.
    """
    calls = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return calls.flatten(0, 1)
