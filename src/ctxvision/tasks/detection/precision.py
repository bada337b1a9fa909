"""Predictions in float32, whatever the network computes in: a box of 1333 pixels has no place in bfloat16."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
_HALF = (torch.float16, torch.bfloat16)


def in_full_precision(module: Module) -> Module:
    """Let a module return float32 where it would return float16 or bfloat16; float64 stays."""
    module.register_forward_hook(_promote_output)
    return in_own_precision(module)


def in_own_precision(module: Module) -> Module:
    """Let a module of float16 or bfloat16 weights take the float32 that others have made of their outputs."""
    module.register_forward_pre_hook(_cast_inputs)
    return module


def _promote_output(module: nn.Module, args: Any, output: Any) -> Any:
    return _cast(output, _HALF, torch.float32)


def _cast_inputs(module: nn.Module, args: Any) -> Any:
    own = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    return _cast(args, (torch.float32,), own) if own in _HALF else args


def _cast(value: Any, kinds: tuple[torch.dtype, ...], dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.dtype in kinds else value
    if isinstance(value, dict):
        return {name: _cast(item, kinds, dtype) for name, item in value.items()}
    return type(value)(_cast(item, kinds, dtype) for item in value)
