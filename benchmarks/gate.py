"""The correctness gate: no time is printed of something that computes wrong numbers."""

import importlib.util
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks.settings import ROOT


class RedGate(Exception):
    """A candidate computes something else than it should; the message says what, and by how much."""


def _load_oracle() -> ModuleType:
    """Load tests/_oracle.py by its path: the name ``tests`` belongs to nobody."""
    spec = importlib.util.spec_from_file_location("benchmarks._oracle", ROOT / "tests" / "_oracle.py")
    if spec is None or spec.loader is None:
        raise ImportError("the benchmarks need tests/_oracle.py; run them in a checkout of the repository")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


oracle: Any = _load_oracle()


def check(what: str, actual: Any, expected: Any, dtype: torch.dtype) -> None:
    """Compare at the tolerance that the tests have for ``dtype``.

    Raises:
        RedGate: If ``actual`` is not finite or too far from ``expected``.
    """
    try:
        oracle.assert_close(actual, expected, dtype)
    except AssertionError as error:
        raise RedGate(f"{what}: {error}") from None


def check_finite(what: str, actual: Tensor) -> None:
    """Raise `RedGate` if a number is infinite or NaN."""
    wrong = actual.numel() - int(actual.isfinite().sum())
    if wrong:
        raise RedGate(f"{what}: {wrong} of {actual.numel()} numbers are not finite")
