"""Which kernels compute the operators, and why; how to force one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor

from . import _native

Name = Literal["native", "triton", "torch"]
NAMES: tuple[Name, ...] = get_args(Name)
DTYPES: dict[Name, tuple[torch.dtype, ...]] = {
    "native": (torch.float32, torch.bfloat16),
    "triton": (torch.float32, torch.float16, torch.bfloat16),
}
# files of an operator's folder
MODULES: dict[Name, str] = {"native": "cpu", "triton": "triton", "torch": "reference"}

_forced: Name | None = None  # one for the process: the backward pass may run in other threads


@dataclass(frozen=True)
class Backend:
    """One set of kernels on this machine.

    Attributes:
        name: Name of the backend, ``"native"``, ``"triton"`` or ``"torch"``.
        available: Whether it can run here at all.
        reason: Description of what it computes, or the reason why it cannot.
    """

    name: Name
    available: bool
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {'' if self.available else 'not available, '}{self.reason}"


def backends() -> tuple[Backend, ...]:
    """Return what can compute the operators here, most specialised first.

    Without `use_backend`, a CPU tensor takes ``native`` and a CUDA tensor ``triton`` where they are available and
    know the dtype; everything else takes ``torch``.

    Examples:
        >>> from ctxvision.ops import backends
        >>> [backend.name for backend in backends()]
        ['native', 'triton', 'torch']
    """
    library = _native.load()
    missing = _triton_missing()
    if isinstance(library, str):
        native = Backend("native", False, library)
    else:
        native = Backend("native", True, f"CPU, float32 and bfloat16, {library.description}")
    devices = "CUDA" + (" and, interpreted, CPU" if _interpreted() else "")
    triton = Backend("triton", missing is None, missing or f"{devices}, float32, float16 and bfloat16")
    return native, triton, Backend("torch", True, "any device, any floating dtype")


@contextmanager
def use_backend(name: Name) -> Iterator[None]:
    """Compute both operators with one backend, in the whole process, until the block ends.

    Gradients are computed with the backend that is chosen when the backward pass runs.

    Args:
        name: Name of the backend, ``"native"``, ``"triton"`` or ``"torch"``, see `backends`.

    Raises:
        ValueError: If there is no such backend.
        RuntimeError: If the backend cannot run on this machine; and, from the operator, if it cannot take the
            tensors.

    Examples:
        >>> import torch
        >>> from ctxvision.ops import local_aggregation, use_backend
        >>> with use_backend("torch"):
        ...     local_aggregation(torch.ones(1, 4, 5, 5), torch.ones(1, 2, 9, 5, 5)).shape
        torch.Size([1, 4, 5, 5])
    """
    global _forced
    if name not in NAMES:
        raise ValueError(f"backend must be one of {', '.join(NAMES)}, got {name!r}")
    chosen = next(backend for backend in backends() if backend.name == name)
    if not chosen.available:
        raise RuntimeError(f"backend {name!r} was asked for but cannot run: {chosen.reason}")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def kernels(package: str, first: Tensor, *others: Tensor | None) -> ModuleType:
    """Return the module of an operator's ``package`` that computes tensors of the dtype and device of ``first``.

    Raises:
        RuntimeError: If the backend that `use_backend` asks for cannot compute them; the message says why.
        ValueError: If a tensor's memory has been given back, as that of sharded parameters is.
    """
    for tensor in (first, *others):
        if tensor is not None and tensor.numel():
            reach = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
            needed = (tensor.storage_offset() + reach + 1) * tensor.element_size()
            if tensor.untyped_storage().nbytes() < needed:
                raise ValueError(
                    f"a tensor of shape {tuple(tensor.shape)} needs {needed} bytes, but its storage holds "
                    f"{tensor.untyped_storage().nbytes()}: it was resized"
                )
    return _module(package, choose(first.device, first.dtype))


def choose(device: torch.device, dtype: torch.dtype) -> Name:
    """Return the backend for tensors of ``dtype`` on ``device``; errors as in `kernels`."""
    if _forced is not None:
        refusal = _refusal(_forced, device, dtype)
        if refusal is not None:
            raise RuntimeError(f"backend {_forced!r} was asked for but cannot run: {refusal}")
        return _forced
    preferred: Name = "native" if device.type == "cpu" else "triton"
    if _refusal(preferred, device, dtype) is None:
        return preferred
    if preferred == "native" and dtype in DTYPES["native"]:
        _native.warn_if_missing()
    return "torch"


@cache
def _module(package: str, name: Name) -> ModuleType:
    return import_module(f"{package}.{MODULES[name]}")  # triton is imported when it first computes


def _refusal(name: Name, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why ``name`` cannot compute this, or ``None``."""
    if name == "torch":
        return None
    if dtype not in DTYPES[name]:
        known = ", ".join(str(known).removeprefix("torch.") for known in DTYPES[name])
        return f"it computes {known}, got {str(dtype).removeprefix('torch.')}"
    if name == "native":
        if device.type != "cpu":
            return f"it computes on the CPU, got tensors on {device}"
        library = _native.load()
        return library if isinstance(library, str) else None
    if device.type == "cpu" and not _interpreted():
        return "it computes on CUDA, got tensors on cpu (TRITON_INTERPRET=1, set before the start, interprets it)"
    if device.type not in ("cpu", "cuda"):
        return f"it computes on CUDA, got tensors on {device}"
    return _triton_missing()


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _triton_missing() -> str | None:
    if find_spec("triton") is None:
        return "the package triton is not installed"
    if not torch.cuda.is_available() and not _interpreted():
        return "torch sees no CUDA device"
    return None
