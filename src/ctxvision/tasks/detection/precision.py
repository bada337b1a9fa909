"""Predictions in float32 under autocast: a box of 1333 pixels has no place in bfloat16."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def in_full_precision(module: Module) -> Module:
    """Let a module return float32 where it would return float16 or bfloat16; float64 stays."""
    module.register_forward_hook(_promote_output)
    return module


def _promote_output(module: nn.Module, args: Any, output: Any) -> Any:
    return _promoted(output)


def _promoted(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    if isinstance(value, dict):
        return {name: _promoted(item) for name, item in value.items()}
    return type(value)(_promoted(item) for item in value)
