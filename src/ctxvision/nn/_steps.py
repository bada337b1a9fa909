"""Layers one after the other; in inference on a CPU in fewer passes over memory, where nobody looks on."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from timm.layers import DropPath
from torch import Tensor, nn

from ctxvision.ops._derivatives import add_in_place
from ctxvision.ops.inference import cpu

from . import _pointwise
from ._checks import is_plain
from ._folding import FoldsNorm

_ACTIVATIONS: dict[type[nn.Module], cpu.Activation] = {nn.ReLU: "relu", nn.SiLU: "silu"}
_Step: TypeAlias = nn.Module | Tensor
"""A layer, or features to add."""


class _Tail(NamedTuple):
    """What follows a layer and is computed in one pass."""

    norm: cpu.Norm | None
    added: Tensor | None
    activation: cpu.Activation
    end: int
    """Number of the step after it."""


def apply(x: Tensor, *layers: nn.Module, shortcut: Tensor | None = None, new: bool = False) -> Tensor:
    """Return what layers make of features one after the other, up to rounding.

    Args:
        x: Features, ``(B, C, H, W)``.
        *layers: The layers. The parts of a plain ``nn.Sequential`` count as layers of their own.
        shortcut: Features of the result's shape, added before the last layer.
        new: Whether nobody else has ``x``, so that it may be overwritten.
    """
    steps: list[_Step] = list(layers)
    if shortcut is not None:
        steps.insert(len(steps) - 1, shortcut)
    if not _pointwise.may_choose(x):
        for step in steps:
            x = step(x) if isinstance(step, nn.Module) else add_in_place(x, step)  # a placeholder is no tensor
        return x
    steps, at = _flat(steps), 0
    while at < len(steps) or new:
        tail = _tail(steps, at) if new else None
        if tail is not None and cpu.computes(x) and _fits(x, tail):
            cpu.norm_activation(x, tail.norm, tail.activation, before=None, after=tail.added)
            at, new = tail.end, False
        elif at == len(steps):
            break
        else:
            step, before = steps[at], x
            if isinstance(step, Tensor):
                x, new = add_in_place(x, step), False
            else:
                x = _pointwise.computed(step, x)
                new = makes_new(step) and x.data_ptr() != before.data_ptr()
            at += 1
    return x


def makes_new(layer: nn.Module) -> bool:
    """Whether nobody else has the tensor that a layer returns, so that it may be overwritten."""
    return isinstance(layer, (nn.Conv2d, FoldsNorm)) and is_plain(layer, type(layer))


def fixed_norm(layer: nn.Module) -> bool:
    """Whether a layer is a BatchNorm that scales and shifts by fixed numbers, and nothing else."""
    return (
        type(layer) is nn.BatchNorm2d
        and not layer.training
        and layer.running_mean is not None
        and layer.running_var is not None
        and is_plain(layer, nn.BatchNorm2d)
    )


def is_idle(layer: Any) -> bool:
    """Whether a layer returns what it is given, and nothing else."""
    if type(layer) is DropPath:
        return not layer.training and is_plain(layer, DropPath)
    return type(layer) is nn.Identity and is_plain(layer, nn.Identity)


def _flat(steps: Sequence[_Step]) -> list[_Step]:
    parts: list[_Step] = []
    for step in steps:
        if type(step) is nn.Sequential and is_plain(step, nn.Sequential):
            parts += _flat(list(step))
        else:
            parts.append(step)
    return parts


def _tail(steps: Sequence[_Step], at: int) -> _Tail | None:
    """Return what can be computed in one pass from step ``at``: norm, sum, activation, of each at most one."""
    norm: cpu.Norm | None = None
    added: Tensor | None = None
    activation: cpu.Activation = "none"
    ahead: list[Any] = [*steps[at : at + 6], None]
    while is_idle(ahead[0]):
        ahead.pop(0)
        at += 1
    if isinstance(ahead[0], nn.BatchNorm2d) and fixed_norm(ahead[0]):
        norm, at = cpu.Norm.of(ahead.pop(0)), at + 1
    while is_idle(ahead[0]):
        ahead.pop(0)
        at += 1
    if isinstance(ahead[0], Tensor):
        added, at = ahead[0], at + 1
        ahead.pop(0)
    kind = type(ahead[0])
    if kind in _ACTIVATIONS and isinstance(ahead[0], nn.Module) and is_plain(ahead[0], kind):
        activation, at = _ACTIVATIONS[kind], at + 1
    return _Tail(norm, added, activation, at) if norm is not None or added is not None else None


def _fits(x: Tensor, tail: _Tail) -> bool:
    """Whether the kernels can read all that a tail computes with, for features of some channels."""
    added, norm = tail.added, tail.norm
    if norm is not None and (norm.mean.numel() != x.shape[1] or not cpu.can_read(x, *norm[:4])):
        return False
    return added is None or (
        type(added) is Tensor and added.shape == x.shape and added.dtype == x.dtype and cpu.computes(added)
    )
