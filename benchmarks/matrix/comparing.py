"""The gate of the matrix: logits of a form against those of eager float32."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gate import RedGate, check_finite
from benchmarks.matrix.plan import INTEGERS, TOLERANCE

_WORSE = 1.25
"""By how much a form may round worse than torch's own operators do in the same data type."""
_MOVED = {"float32": 0.0, "bfloat16": 0.1, "int8": 0.1}
"""Share of the classes a class funnel keeps that may be others: random weights score many of them alike."""


def compare(
    group: str,
    name: str,
    found: Tensor,
    expected: Tensor,
    dtype: str,
    *,
    lowest: float | None = None,
    of_torch: Callable[[], Tensor] | None = None,
) -> float:
    """Return the largest difference of logits as a share of the largest.

    Args:
        group: What is measured, for the message.
        name: Name of the network, for the message.
        found: Logits of the form, ``(B, N)``.
        expected: Logits in eager float32, ``(B, N)``.
        dtype: Data type of the form.
        lowest: Logit below which a class was dropped (`lowest_kept`). Classes that both keep are compared then.
        of_torch: Function that returns what torch's operators alone compute in this data type, ``(B, N)``.

    Raises:
        RedGate: If it is above the tolerance of the data type and above what torch's own operators round by, if
            too many other classes were kept, or a logit is not finite.
    """
    check_finite(name, found)
    if found.shape != expected.shape:
        raise RedGate(f"{name}, {group}: {tuple(found.shape)} logits, not {tuple(expected.shape)}")
    difference, moved = _difference(found, expected, lowest)
    if moved > _MOVED[dtype]:
        raise RedGate(f"keeps {moved:.0%} other classes than eager float32, more than {_MOVED[dtype]:.0%}")
    if difference <= TOLERANCE[dtype]:
        return difference
    bound = TOLERANCE[dtype]
    if of_torch is not None and dtype == "bfloat16":
        bound = max(bound, _WORSE * _difference(of_torch(), expected, lowest)[0])
    if not difference <= bound:
        raise RedGate(
            f"differs from eager float32 by {difference:.2g} of the largest logit, more than {bound:.2g}"
        )
    return difference


def require_rounded(path: Path, feed: dict[str, Any], found: Tensor) -> None:
    """Compare logits with those of the same file in floats that are rounded where it says so.

    Raises:
        RedGate: They differ.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # no integers, then
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rounded = torch.from_numpy(session.run(None, feed)[0])
    difference = float((found - rounded).abs().max() / rounded.abs().max())
    if not difference <= INTEGERS:
        raise RedGate(
            f"differs by {difference:.2g} of the largest logit from what its file says, more than {INTEGERS:g}"
        )


def lowest_kept(network: nn.Module) -> float | None:
    """Return the logit below which a class was dropped by a class funnel; ``None`` for networks without one.

    Scores over τ lie in [-1 / τ, 1 / τ], and a dropped class has a handicap of 2 / τ + 1.
    """
    context: Any = getattr(network, "context", None)
    return None if context is None else -1 / context.temperature.item() - 0.5


def _difference(found: Tensor, expected: Tensor, lowest: float | None) -> tuple[float, float]:
    found, expected = found.double(), expected.double()
    kept = torch.ones_like(expected, dtype=torch.bool) if lowest is None else expected > lowest
    both = kept & (found > lowest) if lowest is not None else kept
    moved = 1 - int(both.sum()) / int(kept.sum())
    if moved == 1:
        return float("inf"), moved
    return float((found - expected)[both].abs().max() / expected[both].abs().max()), moved
