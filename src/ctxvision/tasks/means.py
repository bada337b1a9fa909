"""Means over classes, which say what they leave out."""

import math
from collections.abc import Sequence


def undefined(names: Sequence[str], values: Sequence[float]) -> list[str]:
    """Return the classes whose value is NaN: nothing is there to measure them on."""
    return [name for name, value in zip(names, values, strict=True) if math.isnan(value)]


def over_classes(count: int, left_out: Sequence[str], limit: int = 5) -> str:
    """Say which classes a mean leaves out; empty where it leaves out none.

    Examples:
        >>> over_classes(2, ["lesion"])
        "over 1 of 2 classes, without 'lesion'"
    """
    if not left_out:
        return ""
    named = ", ".join(map(repr, left_out[:limit]))
    more = f" and {len(left_out) - limit} more" if len(left_out) > limit else ""
    return f"over {count - len(left_out)} of {count} classes, without {named}{more}"
